def mixed(v, v_each, w):
    return v + w * sum(v_k - v for v_k in v_each)


w_paper = 1 / 2

print(check.mixed(backbone, mixed, w_paper))
