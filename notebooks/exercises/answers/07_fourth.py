def states(t, t0):
    lam = t / t0
    a = (1 - t) * (1 - lam**2)
    b = (1 - t) * lam**2
    c = t
    return bridge.Coefficients(a, b, c, c)


def predicted(t, t0):
    return abs((1 - t) * (t / t0) ** 2 - (1 - t0) * t / t0)


print(check.fourth(states, predicted))
