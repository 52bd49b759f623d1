"""Names of the WAN autoencoder's tensors, as in layout.py: ours, the other layout's, rule.

Ours are the vendor's (`Wan2.1_VAE.pth`), the other layout is diffusers' AutoencoderKLWan. All are
copied as they are. The encoder's layers carry one running number in both layouts; the decoder's
do so in the vendor's only, while diffusers counts levels and blocks, so that each layer needs rows
of its own. Sources: key listings of both repositories' files.
"""

BLOCK = (  # inside a residual block
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)


def rows(num_res_blocks: int = 2, levels: int = 4) -> tuple[tuple[str, str, str], ...]:
    """The table of an autoencoder of this many levels and residual blocks per encoder level."""
    blocks = [("encoder.downsamples.{}", "encoder.down_blocks.{}")]
    others = []
    for half in ("encoder", "decoder"):
        blocks.append((f"{half}.middle.0", f"{half}.mid_block.resnets.0"))
        blocks.append((f"{half}.middle.2", f"{half}.mid_block.resnets.1"))
        others.append((f"{half}.middle.1", f"{half}.mid_block.attentions.0"))
        others.append((f"{half}.conv1", f"{half}.conv_in"))
        others.append((f"{half}.head.0", f"{half}.norm_out"))
        others.append((f"{half}.head.2", f"{half}.conv_out"))
    step = num_res_blocks + 2  # a decoder level: one block more than the encoder's, and upsampling
    for level in range(levels):
        theirs = f"decoder.up_blocks.{level}"
        for j in range(step - 1):
            blocks.append((f"decoder.upsamples.{step * level + j}", f"{theirs}.resnets.{j}"))
        if level < levels - 1:
            others.append(
                (f"decoder.upsamples.{step * level + step - 1}", f"{theirs}.upsamplers.0")
            )
    others.append(("encoder.downsamples.{}", "encoder.down_blocks.{}"))  # resample, time_conv
    others.append(("conv1", "quant_conv"))
    others.append(("conv2", "post_quant_conv"))
    inner = [(f"{a}.{x}", f"{b}.{y}") for a, b in blocks for x, y in BLOCK]
    return tuple((ours, theirs, "copy") for ours, theirs in inner + others)


WAN_VAE = rows()
