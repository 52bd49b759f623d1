"""Clips that are not video files, and writing that fails."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_video import film_file, pixels, write
from tinybridge.data import animations, clips, container, pictures

PROFILE = bytes(16) + b"RGB " + bytes(108)  # a header is all that is looked at
LOOPS = {".gif": [None, 0, 3], ".webp": [0, 3], ".png": [0, 3], ".apng": [1]}


def animation(path: Path, durations: list[int], loop: int | None = 0, still: int = -1) -> Path:
    """Frames that drift, 24x36; frame `still` is hardly another one than that before it."""
    frames = [Image.fromarray(pixels(k, 24, 36)) for k in range(len(durations))]
    if still >= 0:  # equal neighbours are merged by pillow
        frames[still] = frames[still - 1].copy()
        frames[still].putpixel((0, 0), (255, 255, 255))
    options = {} if loop is None else {"loop": loop}
    if path.suffix == ".webp":
        options["lossless"] = True
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, **options)
    return path


def copy(path: Path, out: Path) -> Path:
    clip = clips.open_clip(path)
    write(out, clips.read(clip), clip)
    assert not [f for f in out.parent.iterdir() if f.suffix in (".tmp", ".old")]
    return out


def timing(path: Path) -> tuple[list[int], int | None]:
    """Durations in milliseconds and the loop count, as pillow reads them."""
    durations = []
    with Image.open(path) as image:
        for k in range(image.n_frames):
            image.seek(k)
            image.load()
            durations.append(image.info.get("duration", 0))
        return durations, image.info.get("loop")


@pytest.mark.parametrize(("suffix", "loop"), [(s, n) for s in LOOPS for n in LOOPS[s]])
def test_animations_keep_durations_and_loops(tmp_path, suffix, loop):
    path = animation(tmp_path / f"a{suffix}", [100, 40, 40, 250, 100], loop, still=2)
    clip = clips.open_clip(path)
    assert (clip.kind, clip.size, clip.frames) == ("animation", (24, 36), 5)
    assert clip.rate == pytest.approx(5 / 0.53) and "variable" in clip.notes[0]
    out = copy(path, tmp_path / "out" / path.name)
    assert timing(out) == timing(path) == ([100, 40, 40, 250, 100], loop)
    one, two = (torch.cat(list(clips.read(clips.open_clip(f))), 1) for f in (path, out))
    assert -10 * (one - two).square().mean().log10() > 33  # 256 colours; lossy WebP


@pytest.mark.parametrize("suffix", LOOPS)
@pytest.mark.parametrize("equal", [(0, 1), (2, 3), (0, 1, 2, 3)])
def test_equal_frames_may_become_one_of_the_same_total_time(tmp_path, suffix, equal):
    clip = clips.open_clip(animation(tmp_path / f"a{suffix}", [50] * 4))
    frames = torch.linspace(0.2, 0.8, 4)[None, :, None, None].repeat(3, 1, 24, 36)
    frames[:, equal] = frames[:, equal[:1]]
    write(tmp_path / f"b{suffix}", iter([frames]), clip)  # one chunk of four frames
    durations = timing(tmp_path / f"b{suffix}")[0]
    still = suffix != ".gif" and len(equal) == 4  # a picture that has no duration
    assert durations == [0] if still else sum(durations) == 200
    assert clip.notes == ()


@pytest.mark.parametrize("suffix", LOOPS)
def test_animations_that_break_off(tmp_path, suffix):
    whole = animation(tmp_path / f"a{suffix}", [50] * 6).read_bytes()
    for share in (0.3, 0.6, 0.95):
        (tmp_path / f"cut{suffix}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=f"cut{suffix}"):
            list(clips.read(clips.open_clip(tmp_path / f"cut{suffix}")))
    (tmp_path / "text.gif").write_text("no picture")
    with pytest.raises(ValueError, match="text.gif"):
        clips.open_clip(tmp_path / "text.gif")


def folder(path: Path, n: int = 3, H: int = 24, W: int = 36, suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for k in range(n):
        Image.fromarray(pixels(k, H, W)).save(path / f"frame{k:02d}{suffix}")
    return path


def test_folders_keep_names_formats_alpha_and_profiles(tmp_path):
    path = folder(tmp_path / "walk")
    rgba = np.dstack([pixels(0, 24, 36), np.full((24, 36), 77, np.uint8)])
    Image.fromarray(rgba).save(path / "frame09.png", icc_profile=PROFILE)
    (path / "notes.txt").write_text("not a frame")
    out = copy(path, tmp_path / "out" / "walk")
    names = ["frame00.png", "frame01.png", "frame02.png", "frame09.png"]
    assert sorted(f.name for f in out.iterdir()) == names
    for name in names:
        assert np.array_equal(np.array(Image.open(out / name)), np.array(Image.open(path / name)))
    assert Image.open(out / "frame09.png").info["icc_profile"] == PROFILE
    copy(path, out)  # an older restoration is replaced
    (out / "mine.txt").write_text("not a frame of it")
    with pytest.raises(OSError, match="holds other files, mine.txt"):
        copy(path, out)
    assert len(list(out.iterdir())) == 5


def test_what_is_not_kept_of_frames_is_told(tmp_path):
    path = folder(tmp_path / "walk")
    Image.new("L", (36, 24), 99).save(path / "frame01.png")
    assert clips.open_clip(path).notes == (f"{path}: not kept: grey, it becomes RGB",)


def test_one_picture_is_a_clip_of_one_frame(tmp_path):
    path = folder(tmp_path / "a", 1) / "frame00.png"
    clip = clips.open_clip(path)
    assert (clip.frames, clip.rate, clip.kind) == (1, None, "pictures")
    copy(path, tmp_path / "b.png")
    assert torch.equal(pictures.read(tmp_path / "b.png").pixels, pictures.read(path).pixels)


def test_frames_of_two_sizes(tmp_path):
    path = folder(tmp_path / "a")
    Image.fromarray(pixels(0, 24, 37)).save(path / "last.png")
    with pytest.raises(ValueError, match="last.png is 37x24 but .*frame00.png is 36x24"):
        clips.open_clip(path)


def test_what_a_path_means(tmp_path):
    films = tmp_path / "films"
    walk = folder(films / "walk")
    gif = animation(films / "a.gif", [50, 50])
    webp = animation(films / "b.webp", [50, 50])
    mp4 = film_file(films / "c.mp4", 2)
    (films / "readme.txt").write_text("no clip")
    (films / "empty").mkdir()
    assert clips.clips(films) == [gif, webp, mp4, walk]
    assert clips.clips(walk) == [walk] and clips.clips(mp4) == [mp4]
    assert clips.clips(walk / "frame00.png") == [walk / "frame00.png"]
    stills = folder(tmp_path / "stills", suffix=".webp")
    assert clips.clips(stills) == [stills]
    with pytest.raises(ValueError, match="no clips in it"):
        clips.clips(films / "empty")
    with pytest.raises(FileNotFoundError, match="gone"):
        clips.clips(tmp_path / "gone")


def test_what_a_folder_of_clips_leaves_out(tmp_path):
    mp4 = film_file(tmp_path / "day.mp4", 2)
    Image.fromarray(pixels(0, 9, 9)).save(tmp_path / "day.jpg")  # as cameras put beside it
    (tmp_path / "older").mkdir()
    film_file(tmp_path / "older" / "night.mp4", 2)
    moving = animation(tmp_path / "moving.png", [50, 50])
    (tmp_path / "torn.webp").write_bytes(moving.read_bytes()[:30])  # is no animation any more
    assert clips.clips(tmp_path) == [mp4, moving]
    thumbnail, torn = "day.jpg (a clip's thumbnail)", "torn.webp (pictures beside clips)"
    assert clips.left_out(tmp_path) == [thumbnail, torn]
    assert clips.left_out(mp4) == []


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_that_lose_something_or_are_too_large(tmp_path, suffix, monkeypatch):
    path, frames = tmp_path / f"a{suffix}", []
    for k in range(3):
        clear = np.dstack([pixels(k, 24, 36), np.full((24, 36), 255, np.uint8)])
        clear[8:16, 8:16, 3] = 0
        frames.append(Image.fromarray(clear))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, disposal=2)
    assert clips.open_clip(path).notes == (f"{path}: not kept: transparency",)
    monkeypatch.setattr(animations, "ROOM", 3 * 3 * 24 * 36 - 1)
    with pytest.raises(ValueError, match=f"a{suffix}: 3 frames of 36x24 are too many"):
        clips.open_clip(path)


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    path = folder(tmp_path / "walk", 0)
    for k in range(1, 13):  # frame1 ... frame12: by spelling 1, 10, 11, 12, 2
        Image.new("RGB", (9, 8), (k, k, k)).save(path / f"frame{k}.png")
    (path / "._frame1.png").write_bytes(b"left by a file manager")
    clip = clips.open_clip(path)
    shown = [round(frame.mean().item() * 255) for frame in clips.read(clip)]
    assert shown == list(range(1, 13)) and clip.frames == 12
    for name in ("take10.mp4", "take9.mp4", "._take9.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [f.name for f in clips.clips(tmp_path)] == ["take9.mp4", "take10.mp4", "walk"]


# ---- writing that fails --------------------------------------------------------------------------


@pytest.fixture(params=["a.mp4", "a.webm", "a.gif", "a.webp", "walk"])
def clip(request, tmp_path) -> clips.Clip:
    path = tmp_path / "in" / request.param
    path.parent.mkdir()
    if path.suffix in container.MUXERS:
        film_file(path, 6)
    elif path.suffix:
        animation(path, [50] * 6)
    else:
        folder(path, 6)
    return clips.open_clip(path)


def older(tmp_path: Path, clip: clips.Clip) -> tuple[Path, bytes]:
    """What stands in the output's place, and its content."""
    out = tmp_path / "out" / clip.path.name
    file = out if out.suffix else out / "frame00.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"an older restoration")
    return out, b"an older restoration"


def untouched(out: Path, content: bytes) -> None:
    assert [f.name for f in out.parent.iterdir()] == [out.name]
    assert (out if out.is_file() else out / "frame00.png").read_bytes() == content


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_an_exception_leaves_nothing_behind(tmp_path, clip, error):
    out, content = older(tmp_path, clip)

    def restored():
        yield from list(clips.read(clip))[:4]
        raise error("stop")

    with pytest.raises(error):
        write(out, restored(), clip)
    untouched(out, content)


def test_left_overs_are_not_trusted(tmp_path, clip):
    """Whatever bears a scratch file's name: the result is that of a clean run, and it stays."""
    out = tmp_path / "out" / clip.path.name
    copied = [frame for frame in clips.read(clip)]
    write(out, copied, clip)
    clean = content(out)
    for name in (f"{out.name}.tmp", f"{out.name}.old", f".{out.name}.tmp"):
        (out.parent / name).write_bytes(b"GIF89a, of a run that was killed")
    write(out, copied, clip)
    assert content(out) == clean or clip.path.suffix in (".mp4", ".webm")
    assert torch.equal(*(torch.cat(list(clips.read(clips.open_clip(out))), 1) for _ in range(2)))
    assert len(list(out.parent.iterdir())) == 4


def content(path: Path) -> list[bytes]:
    return [f.read_bytes() for f in sorted(path.iterdir() if path.is_dir() else [path])]


@pytest.mark.parametrize(("n", "line"), [(0, "only 0"), (5, "only 5"), (7, "more frames .* 6")])
def test_as_many_frames_as_there_were(tmp_path, clip, n, line):
    out, content = older(tmp_path, clip)
    chunk = torch.rand(3, n, *clip.size)
    with pytest.raises(ValueError, match=line):
        write(out, iter([chunk]), clip)
    with pytest.raises(ValueError, match="both must have one size"):
        write(out, iter([torch.rand(3, 6, 5, 7)]), clip)
    untouched(out, content)


def test_a_full_disk(tmp_path, clip):
    """The kernel refuses files above a limit; what is written is noise, which takes more room."""
    out, content = older(tmp_path, clip)
    noise = (torch.rand(3, 1, *clip.size) for _ in range(6))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1200, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(out, noise, clip)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = str(caught.value)
    assert line.startswith(str(out)) and "cannot be written" in line and "File too large" in line
    assert "\n" not in line
    untouched(out, content)


def test_formats_that_cannot_hold_it(tmp_path):
    clip = clips.open_clip(film_file(tmp_path / "a.mp4", 3))  # AAC, which .webm has no room for
    never = (pytest.fail("a frame was asked for") for _ in range(1))
    with pytest.raises(ValueError, match=r"b.webm: .webm cannot hold the sound .* \(aac\)"):
        write(tmp_path / "b.webm", never, clip)
    with pytest.raises(ValueError, match="b.gif: expected a name ending in .mp4"):
        write(tmp_path / "b.gif", never, clip)
    Image.fromarray(pixels(0, 9, 9)).save(tmp_path / "still.png")
    still = clips.open_clip(tmp_path / "still.png")
    with pytest.raises(ValueError, match="b.mp4: expected a name ending in .png"):
        write(tmp_path / "b.mp4", never, still)
    (tmp_path / "still.png").unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        write(tmp_path / "file" / "b.mp4", never, clip)
    (tmp_path / "c.mp4" / "kept").mkdir(parents=True)  # a folder in the place of a file
    with pytest.raises(OSError, match="c.mp4: cannot be written"):
        write(tmp_path / "c.mp4", clips.read(clip), clip)
    assert (tmp_path / "c.mp4" / "kept").is_dir()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mp4", "c.mp4", "file"]
