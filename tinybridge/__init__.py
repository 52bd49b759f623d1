"""tinybridge: restoration from a frozen flow model and a learned prompt (arXiv 2604.04924).

    import tinybridge as tb
    backbone = tb.load_backbone("flux")
    tb.restore(backbone, tb.Prompt.load("haze.safetensors"), Image.open("photo.jpg"))

A name is imported when it is first used, so that tinybridge.bridge needs torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinybridge.checkpoints import load_backbone
    from tinybridge.prompt import Prompt
    from tinybridge.restoration import restore, restore_stream

__version__ = "0.1.0"
__all__ = ["Prompt", "load_backbone", "restore", "restore_stream"]

PLACES = {
    "Prompt": "tinybridge.prompt",
    "load_backbone": "tinybridge.checkpoints",
    "restore": "tinybridge.restoration",
    "restore_stream": "tinybridge.restoration",
}


def __getattr__(name: str) -> object:
    """One of PLACES. AttributeError for another name."""
    if name not in PLACES:
        raise AttributeError(f"module 'tinybridge' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
