"""T5, UMT5 and CLIP: encoders and tokenizers."""

from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder

__all__ = ["ClipConfig", "ClipText", "T5Config", "T5Encoder"]
