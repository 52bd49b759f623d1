path = bridge.Bridge("swapped", bridge.naive, bridge.desired)
lower = True  # True or False

print(check.swapped(path, lower))
