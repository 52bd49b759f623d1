def path(t, t0):
    lam = t / t0
    a = (1 - t) * (1 - lam)
    b = (1 - t) * lam
    c = t
    return a, b, c


print(check.desired(path))
