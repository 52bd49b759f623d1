def v_alone(term):
    D = term.shape[2] // 3
    nothing = torch.zeros_like(term[..., :D])  # [K, L, D]
    return torch.cat([nothing, nothing, term[..., 2 * D :]], 2)


print(check.v_alone(backbone, v_alone))
