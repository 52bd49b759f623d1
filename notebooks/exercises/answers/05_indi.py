def states(t, t0):
    lam = t / t0
    a = 1 - lam
    b = lam
    c = 0 * t
    return a, b, c, c  # s = c


share = 0.0  # of the way, 0 to 1

print(check.indi(states, share))
