"""Clips in overlapping windows: the chain of steps against the whole clip moved step by step."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from tinybridge import bridge as bridges
from tinybridge import windows as module
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore_stream
from tinybridge.windows import Windows, sample_windows

STEPS = 4
PROMPT = Prompt(torch.zeros(2, 3), torch.ones(1))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def velocity(x, s):
    """Looks at every frame of its window, so that the windows matter."""
    place = torch.linspace(-1, 1, x.shape[2])[:, None, None]
    around = x.mean(2, keepdim=True) + 0.3 * place * x.cumsum(2)
    return torch.sin(3 * x) + around + s.view(-1, 1, 1, 1, 1) * x


def noise_of(y, seed=42):
    """As a stream draws it: frame after frame from one generator."""
    g = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(part.shape, generator=g) for part in y.split(1, 2)], 2)


def literal(y, velocity, path, windows, steps=STEPS, t0=0.4):
    """All windows of the clip at every step, their velocities averaged, then the sampler's step."""
    n, W, overlap = y.shape[2], windows.size, windows.overlap
    noise, ts = noise_of(y), bridges.times(t0, steps=steps)
    x = bridges.start(path, y, noise, ts[0])
    for t, t_next in zip(ts, [*ts[1:], None], strict=True):
        total, weights = torch.zeros_like(x), torch.zeros(n, 1, 1)
        for first in range(0, max(1, n - overlap), W - overlap):
            part = slice(first, first + W)
            s = path.sampling(t, t0).s.to(x).expand(len(x))
            v = velocity(x[:, :, part], s)
            w = torch.tensor([min(p + 1, W - p, overlap + 1) for p in range(v.shape[2])])
            total[:, :, part] += w[:, None, None] * v
            weights[part] += w[:, None, None]
        x0_hat = x - path.sampling(t, t0).s * total / weights
        x = bridges.step(path, x, x0_hat, y, noise, t, t_next, t0)
    return x


def walked(y, velocity, path, windows, **options):
    return torch.cat(
        list(sample_windows(y.split(1, 2), velocity, path, windows, STEPS, **options)), 2
    )


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    error = ((a - b).abs().max() / b.abs().max()).item()
    assert error <= tolerance, f"relative error {error:.1e}"


SHAPES = [(1, 0), (2, 1), (3, 1), (4, 0), (5, 2), (5, 3), (5, 4), (9, 3)]


@pytest.mark.parametrize("size, overlap", SHAPES)
@pytest.mark.parametrize("name", bridges.BRIDGES)
def test_the_chain_is_the_whole_clip_moved_step_by_step(size, overlap, name):
    path, windows = bridges.BRIDGES[name], Windows(size, overlap)
    for n in (*range(1, 13), 23):
        y = random(2, 3, n, 4, 5, seed=n)
        close(walked(y, velocity, path, windows), literal(y, velocity, path, windows))


@pytest.mark.parametrize("name", bridges.BRIDGES)
@pytest.mark.parametrize("n", (1, 4, 7))
def test_one_window_is_the_sampler_itself(name, n):
    path, y = bridges.BRIDGES[name], random(1, 3, n, 4, 5)
    whole = bridges.sample(path, velocity, y, STEPS, noise=noise_of(y))
    assert torch.equal(walked(y, velocity, path, Windows(7, 2)), whole)
    assert not torch.equal(walked(y, velocity, path, Windows(7, 2), seed=43), whole)


def test_weights_of_two_windows_fill_each_other_up():
    assert Windows(9, 3).weights == [1, 2, 3, 4, 4, 4, 3, 2, 1]
    assert Windows(4, 0).weights == [1, 1, 1, 1]
    for size, overlap in ((3, 1), (9, 3), (8, 4)):
        w = Windows(size, overlap).weights
        assert {a + b for a, b in zip(w[size - overlap :], w, strict=False)} == {overlap + 1}


def test_windows_in_frames_of_the_clip():
    told = {(33, None): (9, 3), (9, None): (3, 1), (5, None): (2, 1), (1, None): (1, 0)}
    told |= {
        (33, 8): (9, 2),
        (33, 9): (9, 3),
        (35, 0): (9, 0),
        (33, 32): (9, 8),
        (81, None): (21, 7),
    }
    for (frames, overlap), (size, shared) in told.items():
        assert Windows.of(frames, overlap, 4) == Windows(size, shared)
    for frames, overlap, words in (
        (0, None, "window is 0 frames: at least 1"),
        (33, 33, "overlap is 33 frames in a window of 33: 0 to 32 are possible"),
        (33, -4, "overlap is -4 frames"),
        (1, 1, "0 to 0 are possible"),
    ):
        with pytest.raises(ValueError, match=words):
            Windows.of(frames, overlap, 4)


# ------------------------------------------------------------------------------------ memory


def peak(n, windows, steps=STEPS):
    """Most frames alive at once, and how far the source was pulled ahead of what came out."""
    alive, most, pulled, ahead = weakref.WeakSet(), 0, 0, 0
    make = module.Frame.__init__

    def counted(self, *args, **kwargs):
        nonlocal most
        make(self, *args, **kwargs)
        alive.add(self)
        most = max(most, len(alive))

    def source():
        nonlocal pulled
        while pulled < n:
            pulled += 1
            yield torch.zeros(1, 1, 1, 2, 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Frame, "__init__", counted)
        patch.setattr(module.Frame, "__hash__", object.__hash__)
        path = bridges.BRIDGES["desired"]
        for out, _ in enumerate(sample_windows(source(), velocity, path, windows, steps)):
            ahead = max(ahead, pulled - out)
    return most, ahead


@pytest.mark.parametrize("size, overlap", ((3, 1), (9, 3)))
def test_memory_does_not_grow_with_the_clip(size, overlap):
    short, long = (peak(n, Windows(size, overlap)) for n in (20 * size, 60 * size))
    assert short == long
    most, ahead = long
    assert most <= STEPS * size + 1  # the one that is on its way from step to step
    assert ahead <= STEPS * size


def test_every_step_is_taken_as_soon_as_it_can_be():
    order, level = [], bridges.times(steps=STEPS).tolist()

    def logged(x, s):
        order.append(min(range(STEPS), key=lambda k: abs(level[k] - s.item())))
        return 0 * x

    y, path = random(1, 1, 18, 2, 2), bridges.BRIDGES["desired"]
    frames = sample_windows(y.split(1, 2), logged, path, Windows(3, 1), STEPS)
    next(frames)
    assert order.count(STEPS - 1) == 1 and order.count(0) == STEPS  # a wavefront, not a sweep
    assert len(list(frames)) == 17
    assert all(order.count(k) == 9 for k in range(STEPS))  # 18 frames: 8 full windows, one of two


# ---------------------------------------------------------------------------- frames to frames


class Fake:
    """A video model whose latent frame is the mean of its frames: time stride 4, space stride 2."""

    video, window, dtype = True, 9, torch.float32
    vae = SimpleNamespace(time_stride=4)

    def __init__(self):
        self.prepared = []

    def encode_stream(self, chunks):
        held, need = [], 1
        for chunk in chunks:
            for frame in chunk.split(1, 2):
                H, W = frame.shape[3:]
                held.append(torch.nn.functional.pad(frame[0], (0, -W % 2, 0, -H % 2)))
                if len(held) == need:
                    yield self.latent(held)
                    held, need = [], 4
        if held:
            yield self.latent(held)

    def latent(self, held):
        mean = torch.stack(held).mean(0)  # [3, 1, H, W]
        return torch.nn.functional.avg_pool2d(mean, 2)[None]

    def decode_stream(self, latents):
        for k, z in enumerate(latents):
            z = z.repeat_interleave(4 if k else 1, 2).repeat_interleave(2, 3)
            yield z.repeat_interleave(2, 4).clamp(0, 1)

    def prepare(self, prompts, levels):
        self.prepared.append((prompts, levels))
        return len(prompts)

    def velocity(self, x, s, prompt=None):
        return 0.1 * velocity(x, s) * (1 + (prompt or 0))


def cut(frames, *sizes):
    """A clip [3, n, H, W] in chunks of such lengths, the last of what is left."""
    left = frames.shape[1] - sum(sizes)
    return frames.split([*sizes, left], 1) if left > 0 else frames.split(1, 1)


@pytest.mark.parametrize("n", range(1, 13))
def test_as_many_frames_of_that_size_come_out_as_went_in(n):
    clip = torch.rand(3, n, 5, 7)
    out = list(restore_stream(Fake(), [], cut(clip, 1, 2), steps=STEPS))
    whole = torch.cat(out, 1)
    assert whole.shape == clip.shape and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1
    again = torch.cat(list(restore_stream(Fake(), [], [clip], steps=STEPS)), 1)
    assert torch.equal(whole, again), "the division into chunks does not matter"
    if n > 5:
        start = torch.cat(list(restore_stream(Fake(), [], [clip[:, :5]], steps=STEPS)), 1)
        assert not torch.equal(start, whole[:, :5]), "later frames matter within a window"


def test_no_frames_make_no_frames():
    assert list(restore_stream(Fake(), [], [], steps=STEPS)) == []


def test_prompts_are_prepared_once_for_the_levels_of_the_path():
    backbone, clip = Fake(), torch.rand(3, 30, 4, 4)
    plain = torch.cat(list(restore_stream(backbone, [], [clip], steps=STEPS)), 1)
    shown = torch.cat(list(restore_stream(backbone, [PROMPT], [clip], "ddbm", STEPS, 0.3)), 1)
    (none, _), (prompts, levels) = backbone.prepared
    ts = bridges.times(0.3, steps=STEPS)
    path = bridges.BRIDGES["ddbm"]
    assert none == [] and prompts == [PROMPT] and levels.dtype == torch.float32
    assert levels.tolist() == pytest.approx([path.sampling(t, 0.3).s.item() for t in ts])
    assert not torch.equal(plain, shown)


def test_progress_tells_latent_frames_done():
    done = []
    clip = torch.rand(3, 31, 4, 4)  # 9 latent frames
    list(restore_stream(Fake(), [], [clip], steps=STEPS, progress=done.append))
    assert sum(done) == pytest.approx(9) and max(done) <= 3 / STEPS


def test_a_stopped_restoration_lets_go_of_its_source_and_its_frames():
    closed, alive = [], weakref.WeakSet()

    def source():
        try:
            for _ in range(500):
                chunk = torch.rand(3, 4, 4, 4)
                alive.add(chunk)
                yield chunk
        finally:
            closed.append(True)

    out = restore_stream(Fake(), [], source(), steps=STEPS)
    next(out), next(out)
    assert not closed and len(alive) <= 2
    out.close()
    gc.collect()
    assert closed and not alive


@pytest.mark.parametrize("wrong", ({"steps": 0}, {"t0": 1.5}, {"window": 9, "overlap": 9}))
def test_what_cannot_be_is_told_before_a_frame_is_read(wrong):
    def source():
        pytest.fail("pulled")
        yield

    with pytest.raises(ValueError):
        next(restore_stream(Fake(), [], source(), **wrong))


def test_an_error_of_the_source_comes_through():
    def source():
        yield torch.rand(3, 20, 4, 4)
        raise ValueError("a.mp4: it ends too early")

    with pytest.raises(ValueError, match="ends too early"):
        list(restore_stream(Fake(), [], source(), steps=STEPS))
