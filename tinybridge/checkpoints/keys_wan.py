"""Names of WAN 2.1's published tensors: ours (the vendor's), diffusers', the rule. See layout.py.

A pure renaming: no tensor is split, joined or reordered. Two names mislead: the affine norm in
front of the cross-attention is the third here and the second there, and what is head.modulation
here has there the name of the blocks' modulations, without a prefix.
"""

WAN = (  # vendor (Wan-Video/Wan2.1) <- diffusers WanTransformer3DModel
    ("patch_embedding", "patch_embedding", "copy"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1", "copy"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2", "copy"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1", "copy"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2", "copy"),
    ("time_projection.1", "condition_embedder.time_proj", "copy"),
    ("blocks.{}.modulation", "blocks.{}.scale_shift_table", "copy"),
    ("blocks.{}.self_attn.q", "blocks.{}.attn1.to_q", "copy"),
    ("blocks.{}.self_attn.k", "blocks.{}.attn1.to_k", "copy"),
    ("blocks.{}.self_attn.v", "blocks.{}.attn1.to_v", "copy"),
    ("blocks.{}.self_attn.o", "blocks.{}.attn1.to_out.0", "copy"),
    ("blocks.{}.self_attn.norm_q", "blocks.{}.attn1.norm_q", "copy"),
    ("blocks.{}.self_attn.norm_k", "blocks.{}.attn1.norm_k", "copy"),
    ("blocks.{}.norm3", "blocks.{}.norm2", "copy"),
    ("blocks.{}.cross_attn.q", "blocks.{}.attn2.to_q", "copy"),
    ("blocks.{}.cross_attn.k", "blocks.{}.attn2.to_k", "copy"),
    ("blocks.{}.cross_attn.v", "blocks.{}.attn2.to_v", "copy"),
    ("blocks.{}.cross_attn.o", "blocks.{}.attn2.to_out.0", "copy"),
    ("blocks.{}.cross_attn.norm_q", "blocks.{}.attn2.norm_q", "copy"),
    ("blocks.{}.cross_attn.norm_k", "blocks.{}.attn2.norm_k", "copy"),
    ("blocks.{}.ffn.0", "blocks.{}.ffn.net.0.proj", "copy"),
    ("blocks.{}.ffn.2", "blocks.{}.ffn.net.2", "copy"),
    ("head.modulation", "scale_shift_table", "copy"),
    ("head.head", "proj_out", "copy"),
)
