"""What the models are built of: attention and norms, exact tiles, causal layers."""
