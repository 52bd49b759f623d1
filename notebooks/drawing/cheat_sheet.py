"""The method on one page: four equations, the bridges, the letters, the defaults, where it stands.

Nothing here is written twice: files and lines are looked up in the source when the page is drawn,
defaults and sizes are read from the code.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import train
from notebooks.drawing.pencil import page, words
from tinybridge import bridge, flux, restoration, wan
from tinybridge.backbone import Backbone
from tinybridge.checkpoints.backbones import usual_length
from tinybridge.prompt import Prompt
from tinybridge.training import loop
from tinybridge.training.settings import Settings

ROOT = Path(__file__).parents[2]
EQUATIONS = (  # what it is, how it reads, where it stands: a function, and some text of the line
    ("1  state", "x_t = a x0 + b y + c eps", bridge.corrupt, "a * x0 + b * y + c * eps"),
    ("2  estimate", "x0_hat = x_t - s v", bridge.loss, "x0_hat = x_t - over(s"),
    ("    its loss", "mean of (x0_hat - x0)^2", bridge.loss, "(x0_hat - x0).square()"),
    ("3  prompt in FLUX", "q, k, v of h + gates[i] P", flux.Attention.forward, "add_term(qkv"),
    (
        "    prompt in WAN",
        "attn(x, E) + gates[i] attn(x, E + P)",
        wan.Block.cross,
        "gate * attend(q, term.prompt)",
    ),
    ("4  step: noise of x", "eps_hat = (x - a x0_hat - b y) / c", bridge.step, "eps_hat = ("),
    (
        "    next state",
        "x' = a' x0_hat + b' y + c' eps_hat",
        bridge.step,
        "return then.a * x0_hat",
    ),
)
PATHS = (  # states of training; what its sampler puts together is the same, but for naive
    ("naive", "0", "1 - t", "t", "1 - t, 0, t", bridge.naive),
    ("ddbm", "(1 - s)(1 - r)", "(1 - s) r", "s", "the same", bridge.ddbm),
    ("desired", "(1 - t)(1 - lam)", "(1 - t) lam", "t", "the same", bridge.desired),
)
LETTERS = (
    ("x0, y", "clean and degraded latent"),
    ("x0_hat", "what the model takes for x0"),
    ("eps", "noise, N(0, 1)"),
    ("t", "flow time, t0 down to t_min"),
    ("s", "noise level the model is told"),
    ("v", "velocity, eps - x0"),
    ("lam", "t / t0"),
    ("r", "((1-t0) t / (t0 (1-t)))^2"),
    ("P", "residual [L, D], learned"),
    ("gates", "[n], learned, one a block"),
    ("h", "text rows after modulation"),
    ("E", "text as WAN's blocks read it"),
)
PLACES: tuple[tuple[str, Callable], ...] = (
    ("what is learned", Prompt),
    ("one training step", loop.sample_losses),
    ("the sampler", bridge.sample),
    ("the frozen model", Backbone.velocity),
    ("the time that it is told", Backbone.model_time),
    ("FLUX, a joint block", flux.DoubleBlock),
    ("FLUX, a single block", flux.SingleBlock),
    ("WAN, a block", wan.Block),
    ("a picture restored", restoration.restore),
)


def place(thing: Callable, said: str = "") -> str:
    """File and line at which a function or class begins, or of its one line that holds `said`.

    ValueError if no line of it does, or several.
    """
    thing = inspect.unwrap(thing)
    lines, first = inspect.getsourcelines(thing)  # decorators too
    file = Path(inspect.getsourcefile(thing)).relative_to(ROOT / "tinybridge")
    if not said:
        said = f"def {thing.__name__}(" if inspect.isfunction(thing) else f"class {thing.__name__}"
    found = [k for k, line in enumerate(lines) if said in line]
    if len(found) != 1:
        raise ValueError(f"{file}: {len(found)} lines of {thing.__qualname__} hold {said!r}, not 1")
    return f"{file}:{first + found[0]}"


def defaults() -> tuple[tuple[str, str], ...]:
    """What is used where nobody says otherwise, as the code has it."""
    sampler = inspect.signature(bridge.sample).parameters
    start = inspect.signature(Prompt.init).parameters
    settings = Settings()
    rates = [f"{train.DEFAULTS[name, False][1]['embedding']:g}" for name in ("flux", "wan")]
    steps = [f"{train.DEFAULTS[name, False][0]}" for name in ("flux", "wan")]
    return (
        ("bridge, loss", f"{settings.bridge}, {settings.loss}"),
        ("t0, t_min", f"{sampler['t0'].default}, {sampler['t_min'].default:g}"),
        ("calls of the model", f"{sampler['steps'].default}"),
        ("P and gates at first", f"N(0, {start['std'].default}^2), {start['gate'].default:g}"),
        ("steps, tiny FLUX / WAN", " / ".join(steps)),
        ("rate, tiny FLUX / WAN", " / ".join(rates)),
        ("pairs a step", f"{settings.batch_size}"),
        ("L, D, n of FLUX.1", sizes("flux")),
        ("L, D, n of WAN 2.1 1.3B", sizes("wan")),
    )


def sizes(name: str) -> str:
    """Rows and width of the official model's P, and how many gates."""
    if name == "flux":
        config = flux.FluxConfig()
        blocks = config.depth + config.depth_single
    else:
        config = wan.WanConfig()
        blocks = config.depth
    return f"{usual_length(name, {})}, {config.hidden_size}, {blocks}"


def cheat_sheet() -> str:
    """The page, from top to bottom."""
    parts = [words(24, 36, "Restoration by a learned prompt, on one page", "head learned")]
    parts += equations(68)
    parts += bridges(270)
    parts += letters(404)
    parts += table(40, 584, "Defaults", defaults())
    parts += table(450, 584, "Where it stands", [(said, place(thing)) for said, thing in PLACES])
    note = (
        "Files are in tinybridge/. Drawn from the code by notebooks/diagrams.py; arXiv 2604.04924."
    )
    parts.append(words(24, 828, note, "small"))
    return page(860, 848, "The method on one page", parts)


def equations(top: float) -> list[str]:
    """A row for each of EQUATIONS, the second of a pair set in."""
    parts = [words(24, top, "Four equations", "head")]
    for k, (name, equation, thing, said) in enumerate(EQUATIONS):
        y = top + 26 + 24 * k
        parts += [
            words(40 if name[0] != " " else 56, y, name.strip(), "start"),
            words(220, y, equation, "code"),
            words(635, y, place(thing, said), "code"),
        ]
    return parts


def bridges(top: float) -> list[str]:
    """A row for each of PATHS."""
    parts = [words(24, top, "Three bridges", "head")]
    heads = {145: "a", 290: "b", 420: "c = s", 490: "sampled by a, b, c"}
    parts += [words(x, top, said, "small") for x, said in heads.items()]
    for k, (name, a, b, c, sampling, thing) in enumerate(PATHS):
        y = top + 26 + 24 * k
        parts.append(words(40, y, name, "start"))
        columns = {145: a, 290: b, 420: c, 490: sampling, 635: place(thing)}
        parts += [words(x, y, said, "code") for x, said in columns.items()]
    said = "ddbm: s = d / (1 - t + d) with d = t sqrt(1 - r), so no noise at both ends"
    return [*parts, words(40, top + 98, said, "small")]


def letters(top: float) -> list[str]:
    """LETTERS in two columns."""
    parts = [words(24, top, "Letters", "head")]
    half = len(LETTERS) // 2
    for k, (letter, said) in enumerate(LETTERS):
        x, y = (40, 450)[k // half], top + 26 + 24 * (k % half)
        parts += [words(x, y, letter, "code"), words(x + 90, y, said, "start")]
    return parts


def table(left: float, top: float, title: str, rows: list[tuple[str, str]]) -> list[str]:
    """Names and values under a title."""
    parts = [words(left - 16, top, title, "head")]
    for k, (name, value) in enumerate(rows):
        y = top + 26 + 24 * k
        parts += [words(left, y, name, "start"), words(left + 185, y, value, "code")]
    return parts
