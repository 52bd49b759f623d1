"""The factors of float8 weights: told by their shapes, whoever wrote the file.

X.weight has one factor, or one for each row, under X.scale_weight (ComfyUI) or X.weight_scale
(diffusers, newer ComfyUI, LightX2V). Factors of activations and marks of the format say nothing
that the header does not. Layers left in full precision may bring a factor of 1, as converters
write it.
"""

from dataclasses import replace

from tinybridge.checkpoints.tensors import DTYPES, FLOAT8, Checkpoint, Entry

SCALES = (".scale_weight", ".weight_scale")
MARKS = (".scale_input", ".input_scale", ".comfy_quant")
MARK = "scaled_fp8"  # an empty tensor that says that there are scales


def take_scales(checkpoint: Checkpoint) -> Checkpoint:
    """The scales moved out of the entries: name of the weight -> its scale.

    ValueError for two scales of one weight, one of another shape than [], [1], [rows] or
    [rows, 1], or another factor than 1 beside a weight of full precision.
    """
    entries = {name: e for name, e in checkpoint.entries.items() if not name.endswith(MARK)}
    scales: dict[str, Entry] = {}
    for name, entry in list(entries.items()):
        stem, _, leaf = name.rpartition(".")
        weight = entries.get(f"{stem}.weight")
        if weight is None or weight.dtype not in DTYPES or f".{leaf}" not in SCALES + MARKS:
            continue
        del entries[name]
        if f".{leaf}" in MARKS:
            continue
        rows = weight.shape[0] if weight.shape else 1
        single = all(n == 1 for n in entry.shape)
        by_row = entry.shape[:1] == (rows,) and all(n == 1 for n in entry.shape[1:])
        if entry.dtype not in DTYPES or not (single or by_row):
            raise ValueError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; only one scale for "
                f"all of {stem}.weight {list(weight.shape)} or one for each row can be read"
            )
        if f"{stem}.weight" in scales:
            other = scales[f"{stem}.weight"].key
            raise ValueError(f"{entry.file}: {stem}.weight has two scales, {other} and {entry.key}")
        if weight.dtype in FLOAT8:
            scales[f"{stem}.weight"] = entry
        elif not (checkpoint.stored(entry).float() == 1).all():
            raise ValueError(
                f"{entry.file}: {name} is not 1, but {stem}.weight is {weight.dtype}, not float8: "
                "take the file as it was published"
            )
    return replace(checkpoint, entries=entries, scales=scales)
