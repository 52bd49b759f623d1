"""Text space: nothing is learned; of a few sentences the one that restores best is taken.

What a person might ask the frozen model for. Each is given to the text encoders in the place of
the null prompt, and judged on pairs that a prompt would be learned from, never on held-out ones.
"""

from tinybridge.backbone import Backbone
from tinybridge.metrics import measures
from tinybridge.restoration import restore
from tinybridge.training.loop import Settings
from tinybridge.training.pairs import Pairs

ALWAYS = ("", "clear", "a clear, sharp photo of high quality", "restore the photo")
SENTENCES = {
    "haze": (
        "a clear photo without haze",
        "remove the haze",
        "a dehazed photo, clear air",
        "the same view on a clear day",
    ),
    "rain": (
        "a clear photo without rain",
        "remove the rain",
        "a derained photo, no streaks",
        "the same view on a dry day",
    ),
    "snow": (
        "a clear photo without snow",
        "remove the snow",
        "a desnowed photo, no flakes",
        "the same view before it snowed",
    ),
    "blur": (
        "a sharp photo without blur",
        "remove the blur",
        "a deblurred photo, crisp edges",
        "the same view in focus",
    ),
    "lowlight": (
        "a bright photo, well lit",
        "brighten the dark photo",
        "a photo with the light turned on",
        "the same view in daylight",
    ),
}


def sentences(kind: str | None, video: bool) -> list[str]:
    """Those to try against a degradation, "" first; None or an unknown one: the general ones."""
    found = [*ALWAYS, *SENTENCES.get(kind or "", ())]
    return [text.replace("photo", "video") for text in found] if video else found


def compare(told: dict[str, Backbone], pairs: Pairs, settings: Settings) -> list[dict]:
    """Means over the few pairs that are kept as pixels, for each sentence; the best one first.

    told: the same frozen model told each of the sentences.
    """
    degraded, clean = pairs.seen
    rows = []
    for text, model in told.items():
        restored = restore(
            model,
            [],
            degraded,
            bridge=settings.bridge,
            t0=settings.t0,
            batch_size=settings.batch_size,
        )
        rows.append({"sentence": text} | measures(restored, clean))
    return sorted(rows, key=lambda row: -row["psnr"])
