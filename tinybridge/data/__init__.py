"""Pictures, clips and drawn scenes: in, out, in pairs."""
