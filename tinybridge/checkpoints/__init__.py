"""Official checkpoints into our models, every tensor accounted for."""

from tinybridge.checkpoints.backbones import (
    load_backbone,
    save_conditioning,
    text_encoders,
    with_texts,
)
from tinybridge.checkpoints.load import (
    load_clip,
    load_flux,
    load_flux_vae,
    load_t5,
    load_umt5,
    load_wan,
    load_wan_vae,
)

__all__ = [
    "load_backbone",
    "load_clip",
    "load_flux",
    "load_flux_vae",
    "load_t5",
    "load_umt5",
    "load_wan",
    "load_wan_vae",
    "save_conditioning",
    "text_encoders",
    "with_texts",
]
