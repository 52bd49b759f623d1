"""Official checkpoints into our models, every tensor accounted for."""
