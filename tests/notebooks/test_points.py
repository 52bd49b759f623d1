"""The world of points: Bayes by hand, what a walk does, and the page that computes the same."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch

from notebooks import execute, points
from tinybridge import bridge

PAGE = (Path(points.__file__).with_name("points.html")).read_text()
SCRIPT = re.search(r'<script id="world">(.*?)</script>', PAGE, re.DOTALL)[1]
NUMBERS = json.loads(PAGE.split(points.OPENING)[1].split(points.CLOSING)[0])
PROMPTS = ("none", "clear", "token", "embedding")


@pytest.fixture(scope="module")
def engine():
    """The page's mathematics in V8; it needs no document."""
    from py_mini_racer import MiniRacer  # here, so that without it the other tests still run

    engine = MiniRacer()
    engine.eval(f"const given = {json.dumps(NUMBERS)};{SCRIPT}")
    return engine


@pytest.fixture(scope="module")
def fresh():
    """The points, and the prompts learned anew."""
    return points.numbers()


def ask(engine, function, *arguments):
    """The result of a function of the page, by way of JSON."""
    call = ", ".join(json.dumps(argument) for argument in arguments)
    return json.loads(engine.eval(f"JSON.stringify({function}({call}))"))


def double(numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def noise_of(seed, n=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def prompt_of(name, path):
    if name in ("none", "clear"):
        return NUMBERS["words"]["" if name == "none" else name]
    return NUMBERS["learned"][path][name]


# ---- the world ---------------------------------------------------------------------------------


def test_haze_makes_one_point_of_two_halfway_to_the_middle():
    assert points.POINTS.shape == (15, 2)
    torch.testing.assert_close(points.HAZY[2], (points.CLEAN[4] + points.CLEAN[5]) / 4)
    torch.testing.assert_close(points.CLEAN.norm(dim=1), double([3.0] * 10))


def test_the_model_is_bayes_rule():
    """Counted: of many noisy points, those near a state come from each point as often as told."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(15, (2_000_000,), generator=generator)
    noise = torch.randn(len(index), 2, generator=generator, dtype=torch.float64)
    state, s = double([[0.0, 1.2]]), double([0.5])
    near = (0.5 * points.POINTS[index] + 0.5 * noise - state).norm(dim=1) < 0.1
    counted = torch.bincount(index[near], minlength=15) / near.sum()
    told = points.weights(state, s, points.NO_PROMPT)[0]
    assert near.sum() > 3000
    torch.testing.assert_close(counted.double(), told, atol=0.03, rtol=0)


def test_a_logit_of_one_makes_a_point_e_times_as_likely():
    state, s = double([[0.3, 1.0]]), double([0.4])
    logits = points.NO_PROMPT.clone()
    logits[3] = 1.0
    before = points.weights(state, s, points.NO_PROMPT)[0]
    after = points.weights(state, s, logits)[0]
    ratio = (after[3] / after[7]) / (before[3] / before[7])
    assert ratio.item() == pytest.approx(2.718281828, rel=1e-6)


def test_the_encoder_is_narrow_and_bounded():
    far = points.encode(double([1e9, 0.0]))
    lift = far[:10].mean() - far[10:].mean()
    assert lift.item() == pytest.approx(points.LIMIT)
    assert points.word("").abs().max() == 0
    tokens = noise_of(0, n=40)
    logits = torch.stack([points.encode(token) for token in tokens])  # [40, N]
    assert torch.linalg.matrix_rank(logits) == 2


def test_a_learned_embedding_restores_and_no_prompt_does_not(fresh):
    path = bridge.BRIDGES["desired"]
    with_prompt, _ = points.restore(path, double(fresh["learned"]["desired"]["embedding"]), 20)
    without, _ = points.restore(path, points.NO_PROMPT, 20)
    assert points.off(with_prompt) < 0.1 < 1 < points.off(without)


def test_the_notebook_quotes_what_it_has_printed():
    notebook = execute.read(Path(points.__file__).with_name("00_a_world_of_points.ipynb"))
    assert len(notebook.cells) <= 40
    told = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    printed = "".join(execute.text(cell.get("outputs", [])) for cell in notebook.cells)
    numbers = re.findall(r"(?<!arXiv )\b\d+\.\d{2,}", told)
    assert len(numbers) > 3
    assert [number for number in numbers if number not in printed] == []


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_asks_nobody_for_anything():
    assert not re.search(r"https?:|//\w+\.|\bsrc=|\bimport\b|fetch\(|url\(|<link", PAGE)


def test_the_pages_numbers_are_those_of_this_world(fresh):
    assert fresh.keys() == NUMBERS.keys() and fresh["clean"] == NUMBERS["clean"]
    for name in ("points", "words", "learned"):
        torch.testing.assert_close(flat(fresh[name]), flat(NUMBERS[name]), atol=1e-3, rtol=0)


def flat(part) -> torch.Tensor:
    """All numbers of nested lists and dictionaries, in order."""
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list):
        return torch.cat([flat(k) for k in part])
    return double([part])


@pytest.mark.parametrize("path", bridge.BRIDGES)
def test_the_pages_training_states_are_bridges(engine, path):
    x0, y, eps = points.CLEAN[3:4], points.HAZY[1:2] + 0.3, noise_of(1, n=1)
    for t0, share in product((0.2, 0.4, 0.8), (0.001, 0.3, 0.9, 1.0)):
        t = double([t0 * share])
        expected, _ = bridge.corrupt(bridge.BRIDGES[path], x0, y, t, eps, t0)
        pair = (x0[0].tolist(), y[0].tolist())
        found = ask(engine, "corrupt", path, *pair, t.item(), eps[0].tolist(), t0)
        torch.testing.assert_close(double([found]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("path", bridge.BRIDGES)
def test_the_pages_walks_are_bridges(engine, path, prompt):
    """Every state, estimate and end of twelve walks, on a hazy point and beside one."""
    logits, noise = prompt_of(prompt, path), noise_of(2)
    model = points.velocity(double(logits))
    beside = double([0.3, -0.2])
    for steps, t0, moved in product((1, 2, 7, 40), (0.1, 0.4, 0.8), (0 * beside, beside)):
        y = (points.HAZY[0] + moved).expand(12, 2)
        seen = []
        end = bridge.sample(
            bridge.BRIDGES[path], model, y, steps, t0, noise=noise,
            callback=lambda k, t, x, x0_hat, seen=seen: seen.append((x, x0_hat)),
        )  # fmt: skip
        states = torch.stack([x for x, _ in seen], 1)  # [12, steps, 2]
        estimates = torch.stack([x0_hat for _, x0_hat in seen], 1)
        start = (path, logits, y[0].tolist(), steps, t0)
        walks = [ask(engine, "sample", *start, eps) for eps in noise.tolist()]
        for name, expected in (("states", states), ("estimates", estimates), ("end", end)):
            found = double([walk[name] for walk in walks])
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
