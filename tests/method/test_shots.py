"""Where shots begin: drawn shots joined at every place, and what must not be taken for a cut."""

import pytest
import torch

from tinybridge.data import degradations, moving_scenes
from tinybridge.metrics import cuts, format_cuts, shots

KINDS = ["clean", *degradations.KINDS]
SEEDS = list(range(40, 46))


@pytest.fixture(scope="module")
def clips() -> dict[str, torch.Tensor]:
    """Of every kind, six clips [6, 3, 13, 64, 64] of full severity."""
    drawn = {k: moving_scenes.pairs(k, SEEDS, 64, 13, 1.0, 1.0) for k in degradations.KINDS}
    return {"clean": drawn["haze"][1]} | {kind: bad for kind, (bad, _) in drawn.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 3, 4, 5, 6, 7, 10, 12])
def test_a_cut_is_found_where_it_is(clips, kind, at):
    for one, two in zip(clips[kind], clips[kind].roll(1, 0), strict=True):
        assert cuts(torch.cat((one[:, :at], two[:, at:]), 1)) == [at]


@pytest.mark.parametrize("kind", KINDS)
def test_degradations_in_motion_are_no_cuts(clips, kind):
    assert all(cuts(clip) == [] for clip in clips[kind])


def test_flashes_are_no_cuts(clips):
    for clip in clips["clean"]:
        for length in (1, 2, 3):
            for light in (0.5, 1.0, -1.0):
                flash = clip.clone()
                flash[:, 5 : 5 + length] += light
                assert cuts(flash.clamp(0, 1)) == [], f"{length} frames of {light}"
        dying = clip.clone()
        dying[:, 5:9] += torch.tensor([0.8, 0.4, 0.2, 0.1])[:, None, None]
        assert cuts(dying.clamp(0, 1)) == []


def test_fades_and_dissolves_are_no_cuts(clips):
    for one, two in zip(clips["clean"], clips["clean"].roll(1, 0), strict=True):
        for length in (3, 6, 12):
            left = (13 - length) // 2
            weight = torch.cat((torch.ones(left), torch.linspace(1, 0, length + 2)[1:-1]))
            weight = torch.cat((weight, torch.zeros(13 - len(weight))))[:, None, None]  # [13, 1, 1]
            assert cuts(one * weight) == cuts(two * (1 - weight)) == []
            assert cuts(one * weight + two * (1 - weight)) == []


@pytest.mark.parametrize("pixels", [2, 6, 16])
def test_pans_are_no_cuts(clips, pixels):
    """A wide picture seen through a window that moves: at once, after a rest, every 2nd, 3rd."""
    wide = clips["clean"][:, :, 0].movedim(0, 2).flatten(2, 3)  # [3, 64, 6 x 64]
    places = {
        "steady": [k * pixels for k in range(13)],
        "whip": [max(0, k - 5) * pixels for k in range(13)],
        "twos": [k // 2 * pixels for k in range(13)],
    }
    for name, starts in places.items():
        pan = torch.stack([wide[:, :, start : start + 64] for start in starts], 1)
        assert cuts(pan) == [], name


def test_noise_and_still_pictures_are_no_cuts(clips):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 13, 64, 64, generator=generator)
    assert cuts(torch.rand(3, 13, 64, 64, generator=generator)) == []
    for clip in clips["clean"]:
        assert cuts((clip + 0.2 * noise).clamp(0, 1)) == []
        assert cuts((0.1 * clip + 0.1 * noise).clamp(0, 1)) == []
        assert cuts(clip[:, :1].expand(-1, 13, -1, -1)) == []
    assert cuts(torch.zeros(3, 13, 8, 8)) == []


def test_plain_colours_and_two_cuts(clips):
    red, blue = torch.zeros(2, 3, 6, 5, 7)
    red[0], blue[2] = 0.8, 0.8
    assert cuts(torch.cat((red, blue), 1)) == [6]
    one, two, three = clips["clean"][:3]
    assert cuts(torch.cat((one[:, :4], two[:, :4], three[:, :5]), 1)) == [4, 8]


@pytest.mark.parametrize("sizes", [(17,), (1,) * 17, (4, 4, 4, 5), (3, 9, 5)])
def test_a_stream_finds_what_the_whole_clip_shows(clips, sizes):
    one, two = clips["rain"][:2]
    clip = torch.cat((one[:, :7], two[:, :10]), 1)
    found = [(first, torch.cat(list(frames), 1)) for first, frames in shots(clip.split(sizes, 1))]
    assert [first for first, _ in found] == [0, *cuts(clip)] == [0, 7]
    assert torch.equal(torch.cat([frames for _, frames in found], 1), clip)
    assert [(k, len(list(frames))) for k, frames in shots(clip)] == [(0, 7), (7, 10)]


def test_a_stream_holds_four_frames():
    pulled = []

    def source():
        for k in range(30):
            pulled.append(k)
            yield torch.zeros(3, 1, 8, 8)

    ((_, frames),) = [next(shots(source()))]
    for k, _ in enumerate(frames):
        assert len(pulled) == min(30, k + 4)
    assert k == 29 and list(shots([])) == []


def test_cuts_in_words():
    assert format_cuts([14]) == "1 scene cut (frame 14)"
    assert format_cuts([4, 8]) == "2 scene cuts (frames 4, 8)"
    assert format_cuts(list(range(4, 40, 4))) == "9 scene cuts (frames 4, 8, 12, 16, 20, ...)"
