def twin(P, gates):
    P_other = -P
    gates_other = -gates
    return P_other, gates_other


wan_too = False  # True or False

print(check.twin(backbone, twin, wan_too))
