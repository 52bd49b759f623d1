def moved(x, x0_hat):
    return (x - x0_hat).norm(dim=1).mean()


wasted = 2  # of 8 calls

print(check.wasted(moved, wasted))
