"""restore and restore_stream as a library: what goes in, what comes out, what a prompt brings."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import weights
from tinybridge.backbone import Backbone
from tinybridge.data import moving_scenes, scenes
from tinybridge.metrics import psnr
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore, restore_stream

STEPS = 2


@pytest.fixture(scope="module")
def flux() -> Backbone:
    return weights.load_backbone("flux")


@pytest.fixture(scope="module")
def wan() -> Backbone:
    return weights.load_backbone("wan")


def some_prompt(backbone: Backbone, seed: int = 0, **meta: str) -> Prompt:
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed, std=0.2)
    prompt.meta = meta
    return prompt


def pixels_of(*seeds: int, size: int = 32) -> torch.Tensor:
    return scenes.pairs("haze", list(seeds), size)[0]  # [B, 3, H, W]


def streamed(*args, **options) -> torch.Tensor:
    return torch.cat(list(restore_stream(*args, **options)), 1)  # [3, T, H, W]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype
    return (a - b).abs().max().item()


# ---- what a prompt brings ------------------------------------------------------------------------


def test_a_prompt_brings_its_bridge_t0_and_grid(flux):
    pixels = pixels_of(1)
    usual = some_prompt(flux)
    told = {"bridge": "naive", "t0": "0.2", "grid": "false"}
    out = {}
    for key, value in ({"": ""} | told).items():
        out[key] = restore(flux, some_prompt(flux, **{key: value}), pixels, steps=4)
        assert key == "" or apart(out[key], out[""]) > 1e-5, f"{key} is ignored"
    both = restore(flux, some_prompt(flux, **told), pixels, steps=4)
    by_hand = restore(replace(flux, grid=False), [], pixels, "naive", 4, 0.2)
    assert apart(both, by_hand) > 1e-4  # the prompt itself matters
    asked = restore(flux, usual, pixels, "naive", 4, 0.2)
    exact = restore(flux, some_prompt(flux, grid="false"), pixels, "naive", 4, 0.2)
    assert apart(exact, both) == 0 < apart(asked, both)
    assert flux.grid, "the caller's backbone stays as it was"


def test_a_clip_is_restored_as_its_prompt_was_trained(wan):
    clip = moving_scenes.pairs("haze", [1], 32, 5)[0][0]  # [3, T, H, W]
    usual, other = (some_prompt(wan, **meta) for meta in ({}, {"bridge": "ddbm", "t0": "0.3"}))
    plain, brought = (streamed(wan, prompt, clip, steps=STEPS) for prompt in (usual, other))
    assert apart(streamed(wan, [usual], clip, "ddbm", STEPS, 0.3), brought) == 0
    assert apart(plain, brought) > 1e-4


def test_prompts_that_differ_are_not_mixed(flux):
    one, two = some_prompt(flux, t0="0.2"), some_prompt(flux, t0="0.3")
    for function in (restore, streamed):
        with pytest.raises(ValueError, match=r"prompt 2 was trained with t0 0\.3, prompt 1 with"):
            function(flux, [one, two], pixels_of(1))


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"bridge": "sde"}, "bridge 'sde' is not known; choose naive, ddbm, desired"),
        ({"steps": 0}, "steps is 0"),
        ({"t0": 1.0}, "t0 is 1.0"),
    ],
)
def test_what_no_path_has_is_refused(flux, wan, wrong, words):
    for call in (
        lambda: restore(flux, [], pixels_of(1), **wrong),
        lambda: streamed(wan, [], [], **wrong),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_one_prompt_several_or_none(flux):
    pixels, one, two = pixels_of(1, 2), some_prompt(flux, 0), some_prompt(flux, 1)
    alone, listed, mixed, none = (
        restore(flux, prompts, pixels, steps=STEPS) for prompts in (one, (one,), [one, two], [])
    )
    assert apart(alone, listed) == 0
    assert min(apart(alone, mixed), apart(alone, none), apart(mixed, none)) > 1e-3


# ---- pixels --------------------------------------------------------------------------------------


def test_a_picture_comes_back_as_it_came(flux):
    pixels, prompt = pixels_of(1, 2), some_prompt(flux)
    batch = restore(flux, prompt, pixels, steps=STEPS)
    assert batch.shape == pixels.shape and batch.dtype == torch.float32
    assert apart(restore(flux, prompt, pixels[1], steps=STEPS), batch[1]) < 1e-5
    assert apart(restore(flux, prompt, pixels.half(), steps=STEPS), batch) < 0.05


def test_a_picture_does_not_depend_on_its_neighbours(flux):
    pixels, prompt = pixels_of(1, 2, 3), some_prompt(flux)
    batch = restore(flux, prompt, pixels, steps=STEPS, batch_size=2)
    for k, picture in enumerate(pixels):
        assert apart(restore(flux, prompt, picture, steps=STEPS), batch[k]) < 1e-5
    assert apart(restore(flux, prompt, pixels, steps=STEPS, seed=1), batch) > 1e-3


WRONG = {
    r"pixels are torch\.uint8: floats in 0\.\.1 .* divide by 255": lambda x: (x * 255).byte(),
    r"pixels are torch\.int32: floats in 0\.\.1": lambda x: (x * 255).int(),
    r"pixels are .* to 2\d\d: 0\.\.1 is expected": lambda x: x * 255,
    r"pixels are -.* to .*: 0\.\.1 is expected": lambda x: x * 2 - 1,
    r"pixels are nan to nan: 0\.\.1": lambda x: torch.full_like(x, torch.nan),
    r"pixels are \[1, .*, 3\]: \[B, 3, .*H, W\] is expected": lambda x: x.movedim(1, -1),
    r"pixels are \[1, 1, .*32\]: \[B, 3": lambda x: x[:, :1],
    r"pixels are \[1, 1, 3.*\]: \[B, 3, .*H, W\] is expected": lambda x: x[None],
}


@pytest.mark.parametrize("words", WRONG)
def test_pixels_that_are_none_are_refused(flux, wan, words):
    with pytest.raises(ValueError, match=words):
        restore(flux, [], WRONG[words](pixels_of(1)), steps=1)
    clips = WRONG[words](moving_scenes.pairs("haze", [1], 32, 5)[0])
    with pytest.raises(ValueError, match=words):
        restore(wan, [], clips, steps=1)
    if clips.ndim == 5:
        with pytest.raises(ValueError, match=words.replace("3\\]: ", ".*")):
            streamed(wan, [], [clips[0]], steps=1)


def image_of(seed: int = 1, mode: str = "RGB") -> Image.Image:
    levels = (pixels_of(seed)[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(levels.numpy(), "RGB").convert(mode)


def levels_of(image: Image.Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1) / 255


def test_an_image_comes_back_as_an_image(flux):
    image, prompt = image_of(), some_prompt(flux)
    image.info["icc_profile"] = b"a profile"
    out = restore(flux, prompt, image, steps=STEPS)
    assert (out.mode, out.size) == ("RGB", image.size) and out.info["icc_profile"] == b"a profile"
    same = restore(flux, prompt, levels_of(image), steps=STEPS)
    assert apart(levels_of(out), same) <= 0.5 / 255 + 1e-6


def test_grey_transparent_and_turned_images(flux):
    restored = restore(flux, [], image_of(mode="L"), steps=1)
    assert (restored.mode, restored.size) == ("RGB", (32, 32))
    alpha = Image.linear_gradient("L").resize((32, 32))
    clear = image_of()
    clear.putalpha(alpha)
    restored = restore(flux, [], clear, steps=1)
    assert restored.mode == "RGBA" and restored.getchannel("A").tobytes() == alpha.tobytes()
    wide = image_of().crop((0, 0, 32, 24))
    wide.getexif()[0x0112] = 6  # to be turned by a quarter
    assert restore(flux, [], wide, steps=1).size == (24, 32)


@pytest.mark.parametrize(
    "wrong", [Image.new("I;16", (8, 8)), Image.new("CMYK", (8, 8)), "a.png", 3]
)
def test_what_is_no_image_is_refused(flux, wrong):
    with pytest.raises(ValueError, match="picture of kind (I;16|CMYK|str|int): a tensor or an RGB"):
        restore(flux, [], wrong)


def test_a_video_model_restores_no_single_picture(wan, flux):
    for picture in (pixels_of(1), pixels_of(1)[0], image_of()):
        with pytest.raises(ValueError, match=r"\[B, 3, T, H, W\] is expected"):
            restore(wan, [], picture, steps=1)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] is expected"):
        restore(flux, [], torch.rand(1, 3, 5, 32, 32), steps=1)


# ---- both functions ------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 5, 9, 14, 23])
def test_whole_and_streamed_clips_agree(wan, frames):
    clips = moving_scenes.pairs("rain", [1, 2], 32, frames)[0]  # [B, 3, T, H, W]
    prompt = some_prompt(wan)
    whole = restore(wan, prompt, clips, steps=STEPS, seed=7)
    for k, clip in enumerate(clips):
        found = streamed(wan, prompt, clip.split(3, 1), steps=STEPS, seed=7)
        assert apart(found, whole[k]) < 1e-5
        assert apart(restore(wan, prompt, clip, steps=STEPS, seed=7), whole[k]) < 1e-5
    assert apart(restore(wan, prompt, clips, steps=STEPS, seed=8), whole) > 1e-3


# ---- cuts ----------------------------------------------------------------------------------------


def two_shots(first: int, second: int, size: int = 32) -> torch.Tensor:
    """A dark clip, then a light one: [3, first + second, H, W]."""
    one = moving_scenes.pairs("haze", [3], size, first)[1][0]
    two = moving_scenes.pairs("haze", [8], size, second)[1][0]
    return torch.cat((one, two), 1)


@pytest.mark.parametrize("at", [1, 4, 5, 6, 7, 8, 13])
def test_each_shot_is_restored_as_if_it_were_alone(wan, at):
    clip, found, prompt = two_shots(at, 10), [], some_prompt(wan)
    out = streamed(wan, prompt, clip.split(4, 1), steps=STEPS, on_cut=found.append)
    assert found == [at]
    apart_ones = [streamed(wan, prompt, shot, steps=STEPS) for shot in clip.split([at, 10], 1)]
    assert apart(out, torch.cat(apart_ones, 1)) < 1e-5
    assert apart(restore(wan, prompt, clip, steps=STEPS), out) < 1e-5


def test_frames_after_a_cut_show_nothing_of_the_shot_before(wan):
    clip = two_shots(14, 10, 64)
    out = streamed(wan, [], clip, steps=4)
    error = (out - clip).abs().mean((0, 2, 3))  # [T]
    inside, after = error[[*range(4, 12), *range(18, 24)]].mean(), error[14:18]
    print(f"error inside shots {inside * 255:.1f} of 255, after the cut {after.max() * 255:.1f}")
    assert after.max() < 2 * inside
    assert psnr(out[:, 14].unsqueeze(0), clip[:, 14].unsqueeze(0)) > 20
