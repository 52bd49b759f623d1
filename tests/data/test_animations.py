"""Animations that have more to say than their frames: how they stand, what is not kept of them."""

import numpy as np
import pytest
from PIL import Image

from tests.data.test_clips import copy, timing
from tests.data.test_video import pixels
from tinybridge.data import clips


@pytest.mark.parametrize("suffix", [".webp", ".png"])
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_animations_stand_upright_and_lose_nothing_silently(tmp_path, suffix, turn):
    frames = [Image.fromarray(pixels(k, 24, 36)) for k in range(3)]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a{suffix}"
    told = {"exif": exif.tobytes()} | ({"lossless": True} if suffix == ".webp" else {})
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **told)
    clip = clips.open_clip(path)
    assert clip.size == ((36, 24) if turn == 6 else (24, 36))
    assert clip.notes == (f"{path}: not kept: EXIF",)
    turned = {1: 0, 3: 2, 6: 3}[turn]  # quarters of a turn to the left
    for k, frame in enumerate(clips.read(clip)):
        expected = np.rot90(pixels(k, 24, 36), turned).astype(np.float32) / 255
        assert np.array_equal(frame[:, 0].permute(1, 2, 0).numpy(), expected)
    out = copy(path, tmp_path / "out" / path.name)
    with Image.open(out) as image:
        assert image.size == clip.size[::-1] and 0x0112 not in image.getexif()


def test_the_picture_before_an_animation_is_no_frame(tmp_path):
    frames = [Image.fromarray(pixels(k, 24, 36)) for k in range(4)]
    path = tmp_path / "a.png"
    more = {"append_images": frames[1:], "default_image": True, "duration": [40, 50, 60]}
    frames[0].save(path, save_all=True, **more)
    clip = clips.open_clip(path)
    assert (clip.frames, clip.times) == (3, (0, 40, 90, 150))
    assert clip.notes[-1] == f"{path}: not kept: the picture before its frames"
    assert timing(copy(path, tmp_path / "out" / path.name))[0] == [40, 50, 60]
