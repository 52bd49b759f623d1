"""The paper's figure 1 beside ours: the loss of token and embedding space as training goes on.

The paper's numbers are read off the picture on the authors' page, to about 0.003. Ours is the same
quantity, the squared error of the restored latent, on scenes of our own; only the fall relative to
the first point can be compared. Every point is a training of its own whose rate falls to zero.
"""

from notebooks.experiments import ladder
from notebooks.experiments.lab import Budget, Lab
from notebooks.experiments.learning import MIDDLE, Recipe, fit, tuned
from notebooks.experiments.walks import SAMPLERS, walk

COLUMNS = {"figure1.csv": ("source", "space", "degradation", "step", "loss", "relative")}
PAPER = {  # backbone, space: the loss at 0, 500, ... 3,000 iterations
    ("wan", "token"): (0.421, 0.415, 0.364, 0.371, 0.362, 0.366, 0.366),
    ("wan", "embedding"): (0.383, 0.192, 0.185, 0.134, 0.137, 0.133, 0.132),
    ("flux", "token"): (0.377, 0.366, 0.360, 0.361, 0.354, 0.356, 0.356),
    ("flux", "embedding"): (0.370, 0.342, 0.313, 0.297, 0.296, 0.290, 0.284),
}
LOOKS = (0, 25, 50, 100)  # steps after which our loss is looked at, each a training of its own


def jobs(budget: Budget, seed: int) -> list[dict]:
    """A curve of each space on each backbone."""
    found = []
    for backbone in ("flux", "wan"):
        about = {"backbone": backbone, "degradation": "haze", "seed": seed}
        found += [about | {"space": space} for space in ("token", "embedding")]
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """Our losses of one space after some numbers of steps, and the paper's."""
    space, seed = key["space"], key["seed"]
    rung = {"token": "tokens", "embedding": "all"}[space]
    what = {"token": "rung tokens", "embedding": "desired x0"}[space]
    middle = {"token": ladder.MIDDLE["tokens"], "embedding": MIDDLE[lab.backbone.name]}[space]
    rate, held, rows = tuned(lab, what, middle), lab.held_out("haze"), []
    recipe = Recipe("haze", seed)
    looks = LOOKS if lab.budget.name == "full" else LOOKS[:2]
    for steps in looks:
        steps = min(steps, lab.budget.steps)
        velocity, parts, _ = ladder.RUNGS[rung](lab.backbone, seed)
        fit(lab, parts, velocity, lab.pairs("haze", seed), recipe, rate, steps)
        noise = lab.noise(held.y, seed)
        calls = lab.budget.calls[0]
        x0_hat = walk(SAMPLERS["desired"], velocity, held.y, noise, calls)[-1]
        rows.append((steps, (x0_hat - held.x0).square().mean().item()))
    ours = curve("ours", rows)
    paper = PAPER[lab.backbone.name, space]
    theirs = curve("paper", [(500 * k, loss) for k, loss in enumerate(paper)])
    return {"figure1.csv": [key | row for row in ours + theirs]}


def curve(source: str, points: list[tuple[int, float]]) -> list[dict]:
    """Rows of a curve: step, loss, and the loss over that at its first point."""
    first = points[0][1]
    rows = []
    for step, loss in points:
        told = {"source": source, "step": step}
        rows.append(told | {"loss": round(loss, 5), "relative": round(loss / first, 4)})
    return rows
