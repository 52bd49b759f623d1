def gap(t, t0):
    return 1 - t / t0


print(check.gap(gap))
