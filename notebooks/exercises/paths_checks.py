"""Checks of paths.ipynb. Each takes an answer and says whether it is right, or what is wrong.

Nothing here needs a network: what an answer predicts is measured with `bridge.sample` and a model
that knows x0 (an oracle), or in the world of points. T0 is the paper's.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from verdict import BLANK, is_blank, near, not_yet, number, right

from notebooks import points
from tinybridge import bridge
from tinybridge.bridge import Bridge, Coefficients

T0 = 0.4
TIMES = (0.3, 0.2, 0.1, 0.02)
X0, Y, NOISE = torch.eye(3, dtype=torch.float64).split(1)  # [1, 3]: states are a, b, c themselves
APART = (Y - X0).norm()

# ---- measured ----------------------------------------------------------------------------------


def oracle(x: Tensor, s: Tensor) -> Tensor:
    """The velocity that leads to X0; at s = 0, where every one leads nowhere, that of the flow."""
    return (x - X0) / s if s > 0 else NOISE - X0


def visited(path: Bridge, t: float) -> Tensor:
    """The state at t on the oracle's walk from T0, in one step: a, b, c, [1, 3]."""
    x = bridge.start(path, Y, NOISE, number(T0))
    s = path.sampling(number(T0), T0).s
    x0_hat = x - s * oracle(x, s)
    return bridge.step(path, x, x0_hat, Y, NOISE, number(T0), number(t), T0)


def measured_gap(path: Bridge, t: float) -> Tensor:
    """How far the walk is from the training state of the same time, in distances from y to x0."""
    at = path.coefficients(number(t), T0)
    trained = at.a * X0 + at.b * Y + at.c * NOISE
    return (visited(path, t) - trained).norm() / APART


def never_hazy() -> Tensor:
    """A prompt of the world of points that expects clean points alone: logits [N]."""
    logits = torch.zeros(len(points.POINTS), dtype=torch.float64)
    logits[len(points.CLEAN) :] = -20
    return logits


# ---- the checks --------------------------------------------------------------------------------


def desired(path: Callable) -> str:
    """a, b, c of t and t0."""
    if is_blank(path(0.2, T0)):
        return BLANK
    told = "a {:.2f}, b {:.2f}, c {:.2f}"
    a, b, c = path(T0, T0)
    if not (near(a, 0) and near(b, 1 - T0) and near(c, T0)):
        said = "at t = t0 = 0.4 the state must be 0.6 y + 0.4 eps, with nothing of x0; yours has "
        return not_yet(said + told.format(a, b, c))
    a, b, c = path(0.0, T0)
    if not (near(a, 1) and near(b, 0) and near(c, 0)):
        return not_yet("at t = 0 the state must be x0 alone; yours has " + told.format(a, b, c))
    a, b, c = path(0.2, T0)
    if not near(c, 0.2):
        return not_yet(f"the noise is to be the flow's own, c = t; at t = 0.2 yours is {c:.2f}")
    if not near(a + b + c, 1):
        said = "a state is (1 - t) of a picture and t of noise, so that a + b + c = 1; at t = 0.2 "
        return not_yet(said + f"yours is {a + b + c:.2f}")
    if not near(a, b):
        said = "at t = t0 / 2 the picture is to be halfway between y and x0; yours has "
        return not_yet(said + told.format(a, b, c))
    return right("This is bridge.desired: five lines of code, and the paper's second claim.")


def gap(answer: Callable) -> str:
    """The gap of naive, of t and t0."""
    if is_blank(answer(0.2, T0)):
        return BLANK
    if not near(answer(T0, T0), 0):
        said = "at t = t0 nothing has been walked yet, so the gap is 0 there; yours is "
        return not_yet(f"{said}{answer(T0, T0):.2f}")
    for t in TIMES:
        found = measured_gap(bridge.BRIDGES["naive"], t)
        if not near(answer(t, T0), found):
            return not_yet(
                f"at t = {t} the walk is {found:.2f} away from the training state, yours says "
                f"{answer(t, T0):.2f}; write both states as x0 plus a share of y - x0, the noise "
                "cancels"
            )
    return right("It depends on t / t0 alone: no model, no picture, no noise can change it.")


def wasted(moved: Callable, count: object) -> str:
    """moved(x, x0_hat) of a call on ddbm, and how many of 8 calls are wasted."""
    if is_blank(moved(Y, X0), count):
        return BLANK
    found = []

    def keep(k: int, t: Tensor, x: Tensor, x0_hat: Tensor) -> None:
        found.append(float(moved(x, x0_hat)))

    generator = torch.Generator().manual_seed(0)
    _, y = points.draw(100, generator)
    velocity = points.velocity(never_hazy())
    bridge.sample(bridge.find("ddbm"), velocity, y, 8, generator=generator, callback=keep)
    if found[0] > 1e-6:
        said = "at the first call the estimate is the state itself, so nothing has moved; yours is "
        return not_yet(f"{said}{found[0]:.3f}")
    if max(found) < 0.1:
        return not_yet(f"your measure sees no call move anything: its largest is {max(found):.3f}")
    told = ", ".join(f"{value:.3f}" for value in found)
    small = sum(value < max(found) / 100 for value in found)
    if count != small:
        said = f"your own numbers are {told}: {small} of them are less than a hundredth of the "
        return not_yet(said + f"largest, you say {count}")
    return right(f"The calls moved {told}: the first is told s = 0, the last s = 0.0001 or less.")


def swapped(path: object, lower: object) -> str:
    """A bridge of naive's states and desired's sampler, and whether its error is lower."""
    if is_blank(path, lower):
        return BLANK
    if not isinstance(path, Bridge):
        return not_yet(f"a bridge.Bridge(name, coefficients, sampling) is expected, not {path!r}")
    at, walked = path.coefficients(number(0.2), T0), path.sampling(number(0.2), T0)
    if not (near(at.a, 0) and near(at.b, 0.8)):
        said = "`coefficients` are the states of training, and naive's hold nothing of x0; yours "
        return not_yet(said + f"hold {at.a:.2f} of it at t = 0.2")
    if not near(walked.b, 0.4):
        said = "`sampling` is what the sampler puts together, and desired's holds 0.4 y at t = 0.2;"
        return not_yet(f"{said} yours holds {walked.b:.2f}")
    own = points.error(*points.restore(bridge.find("naive"), never_hazy(), 20, n=500))
    new = points.error(*points.restore(path, never_hazy(), 20, n=500))
    if lower != (new < own):
        said = f"the error went from {own:.2f} to {new:.2f}; which of the two samplers is shown y"
        return not_yet(said + " at every step?")
    return right(f"{own:.2f} with naive's own, {new:.2f} with desired's, which puts y back.")


def indi(states: Callable, share: object) -> str:
    """Coefficients of InDI, and how far a perfect model gets on it."""
    if is_blank(states(number(0.2), T0), share):
        return BLANK

    def exact(t: Tensor, t0: float) -> Coefficients:
        return Coefficients(*(number(k) for k in states(t, t0)))

    at = exact(number(0.1), T0)
    if not near(at.c, 0):
        return not_yet(f"InDI's states hold no noise; yours have c = {at.c:.2f} at t = 0.1")
    if not (near(at.a, 0.75) and near(at.b, 0.25)):
        said = "at t = 0.1 a quarter of the way to t0 is left, so that the state is 0.75 x0 + "
        return not_yet(f"{said}0.25 y; yours is {at.a:.2f} x0 + {at.b:.2f} y")
    end = bridge.sample(Bridge("indi", exact, exact), oracle, Y, 20, T0, noise=NOISE)
    found = 1 - (end - X0).norm() / APART
    if not near(share, found):
        said = f"after 20 calls {found:.0%} of the way from y to x0 are walked, you say {share:.0%}"
        return not_yet(said + "; what is x0_hat = x - s v when s is 0?")
    return right(
        "A flow model that is told s = 0 has nothing to say. InDI trains a network of its own, "
        "which is told t and not s; a frozen one needs noise to be asked anything."
    )


def words(token: object, limit: object) -> str:
    """A token of the world of points, and the nats at which it is enough."""
    if is_blank(token, limit):
        return BLANK

    def off(z: Tensor, nats: float) -> float:
        logits = points.encode(z, nats)
        return points.off(points.restore(bridge.find("desired"), logits, 20, n=500)[0])

    z = torch.tensor(token, dtype=torch.float64)
    best = off(torch.tensor([1e6, 0.0], dtype=torch.float64), points.LIMIT)
    if off(z, points.LIMIT) > best + 0.03:
        return not_yet(
            f"with your token restored points are {off(z, points.LIMIT):.2f} off, {best:.2f} can "
            "be had: which of the two directions means clear, and is a longer token better?"
        )
    least = next(nats for nats in range(1, 40) if off(z, nats) < 0.2)
    if limit < least:
        return not_yet(f"at {limit} nats points are {off(z, limit):.2f} off, more than 0.2")
    if limit > least:
        return not_yet(f"enough, but {least} nats are enough too; find the least whole number")
    return right("The direction was right at 3 nats already: what is missing is length.")


def fourth(states: Callable, predicted: Callable) -> str:
    """Coefficients of a new bridge, and its gap if it is sampled along the model's own flow."""
    at = states(number(0.2), T0)
    if is_blank(at, predicted(0.2, T0)):
        return BLANK
    path = Bridge("fourth", states, bridge.flow)
    first = states(number(T0), T0)
    if not (near(first.a, 0) and near(first.b, 1 - T0) and near(first.c, T0)):
        return not_yet("at t0 restoration has 0.6 y + 0.4 eps and nothing else; begin there")
    for t in TIMES:
        at = states(number(t), T0)
        if not (near(at.c, t) and near(at.a + at.b + at.c, 1)):
            said = f"keep c = t and a + b = 1 - t, or the model does not know the state; at t = {t}"
            return not_yet(f"{said} yours has a {at.a:.2f}, b {at.b:.2f}, c {at.c:.2f}")
    for known in ("naive", "desired"):
        if all(near(states(number(t), T0).b, share(known, t)) for t in TIMES):
            return not_yet(f"this is {known}; bend the way of the mean from y to x0")
    for t in TIMES:
        found = measured_gap(path, t)
        if not near(predicted(t, T0), found):
            said = f"at t = {t} the gap is {found:.3f}, you predict {predicted(t, T0):.3f}; the "
            return not_yet(said + "walk holds (1 - t0) t / t0 of y, and your states b")
    return right("You know where your sampler goes before it has gone there.")


def share(name: str, t: float) -> Tensor:
    """b of a known bridge at t."""
    return bridge.find(name).coefficients(number(t), T0).b
