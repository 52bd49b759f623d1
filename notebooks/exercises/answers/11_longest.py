w = backbone.encoder.encoder.final_layer_norm.weight.detach()  # [D]
longest = w.abs().max() * len(w) ** 0.5

print(check.longest(backbone, longest))
