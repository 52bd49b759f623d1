"""Windows over two sides against sums written out, batches in parts, and what shows at borders."""

from functools import partial
from itertools import pairwise, product

import pytest
import torch

import weights
from tests.method.test_long_clips import close, random, walked
from tinybridge import bridge as bridges
from tinybridge import restoration
from tinybridge.data import scenes
from tinybridge.metrics import psnr
from tinybridge.prompt import Prompt
from tinybridge.restoration import in_windows, restore, restore_stream
from tinybridge.windows import AtOnce, Windows, over_sides

ONE = AtOnce(1)
FAULTS = {
    "a GPU's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "the CPU's": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 9 bytes."
    ),
    "Python's": MemoryError(),
}


@pytest.fixture(scope="module")
def flux():
    return weights.load_backbone("flux")


@pytest.fixture(scope="module")
def wan():
    return weights.load_backbone("wan")


def prompts_of(backbone, *seeds):
    sizes = backbone.length, backbone.width, backbone.blocks
    return [Prompt.init(*sizes, seed, std=0.2) for seed in seeds]


# ---- the mean ------------------------------------------------------------------------------------


def looks_around(x, s):
    """A velocity that depends on all of its window and on the place in it."""
    h, w = x.shape[-2:]
    place = torch.linspace(-1, 1, h)[:, None] * torch.linspace(0, 2, w)
    around = x.mean((-2, -1), keepdim=True) + 0.3 * place * x.cumsum(-1).cumsum(-2) / (h * w)
    return torch.sin(3 * x) + around + s.view(-1, *[1] * (x.ndim - 1)) * x


def smooth(size, overlap):
    """Weights of the places of a window: sin^2 up over the overlap, 1, down again."""
    rise = [
        torch.sin(torch.tensor(torch.pi / 2 * (p + 1) / (overlap + 1))) ** 2 for p in range(size)
    ]
    return torch.stack([min(rise[p] if p < overlap else 1 + 0 * rise[p],
                            rise[size - 1 - p] if size - 1 - p < overlap else 1 + 0 * rise[p])
                        for p in range(size)])  # fmt: skip


def literal(x, s, windows):
    """Window by window, all weights as a map of the whole picture, one division at the end."""
    H, W = x.shape[-2:]
    total, weight = torch.zeros_like(x).double(), torch.zeros(H, W).double()
    a, b = min(H, 2 * windows.size), min(W, 2 * windows.size)
    w = smooth(2 * windows.size, 2 * windows.overlap).double()
    w = w[:a, None] * w[:b]
    for i, j in product(windows.starts(H // 2), windows.starts(W // 2)):
        part = looks_around(x[..., 2 * i : 2 * i + a, 2 * j : 2 * j + b], s)
        total[..., 2 * i : 2 * i + a, 2 * j : 2 * j + b] += w * part
        weight[2 * i : 2 * i + a, 2 * j : 2 * j + b] += w
    return (total / weight).float()


@pytest.mark.parametrize("shape", [(1, 3, 26, 18), (2, 3, 16, 40), (3, 2, 3, 22, 8)])
@pytest.mark.parametrize("windows", [Windows(4, 1), Windows(5, 2), Windows(6, 0)])
def test_velocities_are_averaged_with_smooth_weights(shape, windows):
    x, s = random(*shape), torch.linspace(0.1, 0.4, shape[0])
    wanted = literal(x, s, windows)
    for n in (1, 5, 100):
        found = in_windows(looks_around, windows, AtOnce(n), x, s)
        close(found, wanted)
    assert (looks_around(x, s) - wanted).abs().max() > 0.01, "the windows matter"


def test_what_one_window_holds_is_the_model_itself():
    x, s = random(2, 3, 12, 16), torch.tensor([0.1, 0.3])
    assert torch.equal(in_windows(looks_around, Windows(8, 3), ONE, x, s), looks_around(x, s))


@pytest.mark.parametrize("k, m", [(1, 1), (2, 2), (8, 1), (2, 8)])
def test_a_function_of_each_place_is_returned_exactly(k, m):
    def function(x):
        small = x[..., ::k, ::k]
        return small.sin().repeat_interleave(m, -1).repeat_interleave(m, -2)

    x = random(2, 3, 17 * k, 13 * k)
    for windows in (Windows(4, 1), Windows(6, 4), Windows(15, 2)):
        assert torch.equal(over_sides(function, x, windows, (k, m), 3), function(x))


def test_windows_lie_evenly_and_cover_a_side():
    for size, overlap, length in product((2, 3, 8, 9), (0, 1, 3), range(1, 40)):
        if overlap >= size:
            continue
        starts = Windows(size, overlap).starts(length)
        assert starts[0] == 0 and starts[-1] + size == max(length, size)
        steps = [b - a for a, b in pairwise(starts)]
        assert not steps or (max(steps) <= size - overlap and max(steps) - min(steps) <= 1)


def test_windows_of_frames_and_sides_are_one_mean():
    """A clip with windows along all three axes: the chain against the sum over boxes."""
    y, frames, sides = random(1, 2, 7, 12, 10), Windows(3, 1), Windows(4, 1)
    path = bridges.BRIDGES["desired"]

    def velocity(x, s):
        return looks_around(x, s) + 0.2 * x.cumsum(2) - 0.1 * x.mean(2, keepdim=True)

    found = walked(y, partial(in_windows, velocity, sides, AtOnce(4)), path, frames)
    noise = bridges.draw_noise(y, torch.Generator().manual_seed(42))
    ramp = smooth(8, 2)
    ts = bridges.times(steps=4)
    x = bridges.start(path, y, noise, ts[0])
    for t, t_next in zip(ts, [*ts[1:], None], strict=True):
        s = path.sampling(t, 0.4).s
        total, weight = torch.zeros_like(x), torch.zeros(7, 12, 10)
        for f, i, j in product((0, 2, 4), sides.starts(6), sides.starts(5)):
            box = slice(f, f + 3), slice(2 * i, 2 * i + 8), slice(2 * j, 2 * j + 8)
            w = torch.tensor([1.0, 2, 1])[:, None, None] * ramp[:, None] * ramp
            total[:, :, *box] += w * velocity(x[:, :, *box], s.to(x).expand(1))
            weight[box] += w
        x = bridges.step(path, x, x - s * total / weight, y, noise, t, t_next, 0.4)
    close(found, x)


def test_a_size_below_two_tokens_is_refused(flux):
    with pytest.raises(ValueError, match="size is 8 pixels: at least 16 are needed"):
        Windows.of_side(8, 8)


# ---- too little memory ---------------------------------------------------------------------------


def failing(function, most, fault):
    """`function`, but batches of more than `most` samples end in `fault`."""

    def run(x, *rest, **named):
        if len(x) > most:
            raise fault
        return function(x, *rest, **named)

    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_that_does_not_fit_is_halved_and_stays_so(fault):
    told, x, s = [], random(11, 3, 4, 4), torch.rand(11)
    at_once = AtOnce(16, told.append)
    run = failing(looks_around, 3, FAULTS[fault])
    assert torch.equal(at_once(run, x, s), looks_around(x, s))
    assert at_once.n == 2 and told == [
        "out of memory: from here on 5 at once instead of 11",
        "out of memory: from here on 2 at once instead of 5",
    ]
    assert torch.equal(at_once(run, x, s), looks_around(x, s)) and len(told) == 2
    with pytest.raises(type(FAULTS[fault])):
        AtOnce(16, told.append)(failing(looks_around, 0, FAULTS[fault]), x, s)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes"):
        AtOnce(4)(failing(looks_around, 0, RuntimeError("shapes")), random(2, 1, 2, 2))


@pytest.mark.parametrize("fault", FAULTS)
def test_restore_in_less_memory_gives_the_same(flux, monkeypatch, fault):
    pixels = scenes.pairs("haze", [1, 2, 3], 64)[0]
    prompts = prompts_of(flux, 0, 1)
    whole = restore(flux, prompts, pixels, steps=2)
    one = restore(flux, prompts[:1], pixels, steps=2)
    forward = flux.model.forward
    monkeypatch.setattr(flux.model, "forward", failing(forward, 1, FAULTS[fault]))
    for few, wanted in ((prompts, whole), (prompts[:1], one)):
        told = []
        found = restore(flux, few, pixels, steps=2, batch_size=AtOnce(16, told.append))
        assert (found - wanted).abs().max() < 1e-5
        assert len(told) == 1 + len(few) - 1 and "1 at once instead of 3" in told[0]
        assert len(few) == 1 or "one prompt after the other" in told[1]
    monkeypatch.setattr(flux.model, "forward", failing(forward, 0, FAULTS[fault]))
    with pytest.raises(type(FAULTS[fault])), pytest.warns(UserWarning, match="out of memory"):
        restore(flux, prompts, pixels, steps=2)


# ---- what shows ----------------------------------------------------------------------------------


def borders(found, starts, size, length):
    """How much sharper bends are where windows end than between other tokens; 1: no sharper."""
    ends = {*starts, *(start + size for start in starts)}
    ratios = []
    for picture in (found, found.mT):
        bend = picture.diff(n=2).abs().mean((0, 1, 2))  # [8 length - 2]
        between = torch.stack([bend[8 * k - 2 : 8 * k].mean() for k in range(1, length)])
        at = torch.tensor([k in ends for k in range(1, length)])
        ratios.append(between[at].mean() / between[~at].mean())
    return sum(ratios).item() / 2


def pictures():
    slope = torch.linspace(0.2, 0.8, 160)
    return {
        "scenes": scenes.pairs("haze", [1_000_100, 1_000_101], 160)[0],
        "a gradient": (slope[:, None] / 2 + slope / 2).expand(1, 3, -1, -1),
        "one grey": torch.full((1, 3, 160, 160), 0.5),
    }


@pytest.mark.parametrize("name", pictures())
def test_nothing_shows_where_windows_of_a_picture_meet(flux, monkeypatch, name):
    pixels, prompt, found = pictures()[name], prompts_of(flux, 0), {}
    usual = Windows.of_side(64, 8)
    starts = usual.starts(20)
    for kind, windows in (("shared", usual), ("apart", Windows(8, 0)), ("whole", Windows(20, 0))):
        monkeypatch.setattr(Windows, "of_side", lambda *_, windows=windows: windows)
        monkeypatch.setattr(flux, "size", 64)
        change = restore(flux, prompt, pixels, steps=3) - pixels
        places = windows.starts(20) if kind == "apart" else starts
        found[kind] = borders(change, places, 8, 20)
    print(f"{name}: bends at windows' borders over others: {found}")
    assert found["shared"] < 1.15 * max(1, found["whole"])
    if name != "one grey":  # on which the model draws the same in every window
        assert found["apart"] > 1.05 * found["shared"], "the measure sees a seam"


def test_the_autoencoder_in_blended_tiles_shows_no_seam_either(flux, monkeypatch):
    slope = torch.linspace(0.2, 0.8, 160)
    gradient = (slope[:, None] / 2 + slope / 2).expand(1, 3, -1, -1)
    scene = scenes.pairs("haze", [1_000_102], 160)[1]
    monkeypatch.setattr(flux, "tile", 64)
    for pixels in (gradient, scene):
        found = {}
        for exact in (2**22, 0):
            monkeypatch.setattr(restoration, "EXACT", exact)
            latent = restoration.encode(flux, pixels)
            back = restoration.decode(flux, latent, (160, 160))
            found[exact] = borders(back - pixels, Windows.of_side(64, 8).starts(20), 8, 20), back
        (whole, untiled), (blended, tiled) = found.values()
        difference = psnr(untiled, tiled).item()
        print(f"borders {blended:.3f}, untiled {whole:.3f}; apart by {difference:.1f} dB")
        assert blended < 1.15 * max(1, whole) and not torch.equal(untiled, tiled)
        assert psnr(tiled, pixels) > psnr(untiled, pixels) - 1


def test_blended_tiles_take_any_size(flux, monkeypatch):
    monkeypatch.setattr(restoration, "EXACT", 0)
    monkeypatch.setattr(flux, "tile", 32)
    pixels = scenes.pairs("haze", [1], 80)[0][..., :75, :51]
    latent = restoration.encode(flux, pixels)
    assert latent.shape == flux.encode(pixels).shape
    assert restoration.decode(flux, latent, (75, 51)).shape == pixels.shape
    assert restore(flux, [], pixels, steps=1).shape == pixels.shape


def test_a_photo_of_a_video_model_goes_in_tiles_too(wan, monkeypatch):
    pixels = scenes.pairs("haze", [1], 80)[0][0, :, None, :75, :51]  # [3, 1, H, W]
    prompt = prompts_of(wan, 0)
    whole = torch.cat(list(restore_stream(wan, prompt, pixels, steps=1)), 1)
    monkeypatch.setattr(restoration, "EXACT", 0)
    monkeypatch.setattr(wan, "tile", 32)
    sides = []  # of what the encoder is given
    hook = wan.vae.encoder.register_forward_pre_hook(lambda _, x: sides.append(x[0].shape[-2:]))
    tiled = torch.cat(list(restore_stream(wan, prompt, pixels, steps=1)), 1)
    hook.remove()
    assert len(sides) > 1 and max(map(max, sides)) <= 32
    assert tiled.shape == whole.shape == pixels.shape
    assert not torch.equal(tiled, whole) and psnr(tiled[None], whole[None]) > 25
    assert torch.equal(restore(wan, prompt, pixels, steps=1), tiled)
