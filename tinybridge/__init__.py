"""tinybridge: restoration from a frozen flow model and a learned prompt (arXiv 2604.04924)."""

__version__ = "0.1.0"
