"""Pairs to learn from: all mistakes of a set told at once, from headers; a few pixels at a time."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file

from tinybridge.training import latents, pairs


def picture(file: Path, width: int = 40, height: int = 40) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(file)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four good pairs."""
    for side in ("degraded", "clean"):
        for name in ("a.png", "b.jpg", "c.png", "d.png"):
            picture(tmp_path / side / name)
    return tmp_path


def faults(path: Path, side: int = 32, frames: int = 1, video: bool = False) -> list[str]:
    with pytest.raises(ExceptionGroup) as caught:
        pairs.find_files(path, None, side, frames, video)
    lines = [str(error) for error in caught.value.exceptions]
    assert all("\n" not in line for line in lines)
    return lines


def test_a_good_set_is_found(folder):
    assert len(pairs.find_files(folder, None, 32, 1, False)) == 4


def test_every_kind_of_mistake_is_told_in_one_go(folder):
    picture(folder / "clean/a.png", 41, 40)
    (folder / "clean/c.png").unlink()
    (folder / "degraded/d.png").write_bytes(b"\x89PNG\r\n")
    picture(folder / "degraded/e.png", 40, 31)
    picture(folder / "clean/e.png", 40, 31)
    wanted = {
        "a.png": "40x40 but its pair .*41x40",
        "c.png": "no file has its name",
        "d.png": "not a",
        "e.png": "use --size 31",
    }
    found = faults(folder)
    assert len(found) == 4
    for line, (name, words) in zip(found, wanted.items(), strict=True):
        with pytest.raises(ValueError, match=f"degraded/{name}.*{words}"):
            raise ValueError(line)


def test_no_pixel_is_decoded_for_it(folder, monkeypatch):
    picture(folder / "clean/a.png", 41, 40)
    picture(folder / "clean/b.jpg", 41, 40)
    monkeypatch.setattr(Image.Image, "load", None)  # would fail if called
    assert len(faults(folder)) == 2


def test_of_many_mistakes_ten_are_named_and_the_others_counted(folder):
    for k in range(14):
        picture(folder / f"degraded/{k}.png")
    found = faults(folder)
    assert len(found) == 11 and found[-1] == f"{folder}: 4 more of 18 pairs cannot be learned from"
    assert all("no file has its name" in line for line in found[:10])


def test_one_mistake_is_an_error_of_its_own(folder):
    picture(folder / "clean/a.png", 41, 40)
    with pytest.raises(ValueError, match=r"a\.png is 40x40 but its pair"):
        pairs.find_files(folder, None, 32, 1, False)


def test_clips_are_compared_by_length_too(tmp_path):
    for name, frames in {"a": (5, 5), "b": (5, 6), "c": (4, 4)}.items():
        for side, count in zip(("degraded", "clean"), frames, strict=True):
            for t in range(count):
                picture(tmp_path / side / name / f"{t}.png")
    longer, short = faults(tmp_path, frames=5, video=True)
    assert "have 5 and 6 frames" in longer
    assert "4 frames, fewer than 5: use fewer frames" in short


@pytest.mark.parametrize("shape", [(768, 3, 64, 64), (3, 3, 1024, 1024), (2, 3, 33, 480, 480)])
def test_a_large_pair_is_encoded_a_few_crops_at_once(shape):
    """Their number grows with the file; what goes through the autoencoder together does not."""
    seen = []

    def encode(pixels):
        seen.append(pixels.shape)
        return torch.zeros(len(pixels), 1)

    crops = torch.zeros(1).expand(shape)
    latents = pairs.encode(SimpleNamespace(encode=encode), crops)
    assert len(latents) == len(crops) == sum(part[0] for part in seen)
    limit = max(2**20, crops[0, 0].numel())
    assert all(part[0] * torch.Size(part[2:]).numel() <= limit for part in seen)


def test_the_order_of_crops_is_kept():
    crops = torch.arange(500.0).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    model = SimpleNamespace(encode=lambda pixels: pixels[:, :1, :1, :1])
    assert torch.equal(pairs.encode(model, crops).flatten(), torch.arange(500.0))


# ---- several processes -------------------------------------------------------------------------


def fake() -> SimpleNamespace:
    """A backbone whose latents are every other pixel; `encoded` counts pictures."""
    model = SimpleNamespace(video=False, device=torch.device("cpu"), encoded=0)

    def encode(pixels):
        model.encoded += len(pixels)
        return pixels[:, :, ::2, ::2].double()

    model.encode = encode
    return model


def tensors_of(found: pairs.Pairs, model: SimpleNamespace) -> dict[str, torch.Tensor]:
    held = {"y": found.y, "x0": found.x0, "degraded": found.degraded, "clean": found.clean}
    held |= {
        "seen 0": found.seen[0],
        "seen 1": found.seen[1],
        "encoded": torch.tensor(model.encoded),
    }
    return {name: value.contiguous() for name, value in held.items()}


def together(count: int, meet: Path, run: Callable[[int], None]) -> list[int]:
    """run(rank) in `count` processes that know each other; their exit statuses, 3: ValueError."""
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=count)
                run(rank)
                status = 0
            except ValueError:
                status = 3
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.parametrize("limit", [10**9, 7000], ids=["memory", "file"])
def test_processes_encode_their_share_and_hold_what_one_would(folder, monkeypatch, limit):
    """Of four processes one has nothing to do: 33 scenes are three batches; 3 files are learned."""
    learned = pairs.find_files(folder, None, 32, 1, False)

    def drawn(model):
        return pairs.drawn_pairs(model, "haze", 16, counts=(33, 2), quiet=True, folder=room)

    def files(model):
        return pairs.file_pairs(model, learned, 32, 1, quiet=True, folder=room)

    for name, find in {"drawn": drawn, "files": files}.items():
        alone, room = fake(), None
        want = tensors_of(find(alone), alone)

        room = folder / "room"  # from here on
        monkeypatch.setattr(latents, "IN_MEMORY", limit)

        def run(rank, name=name, find=find):
            model = fake()
            save_file(tensors_of(find(model), model), folder / f"{name}-{rank}.safetensors")

        assert together(4, folder / f"meet-{name}", run) == [0, 0, 0, 0]
        found = [load_file(folder / f"{name}-{rank}.safetensors") for rank in range(4)]
        shares = [int(tensors.pop("encoded")) for tensors in found]
        assert sum(shares) == int(want.pop("encoded")) and max(shares) < sum(shares) / 1.9
        for tensors in found:
            assert tensors.keys() == want.keys()
            assert all(torch.equal(tensors[key], want[key]) for key in want)


def test_a_file_that_one_process_cannot_read_ends_all(folder):
    """The header is whole, so that only the process that decodes it can know."""
    learned = pairs.find_files(folder, None, 32, 1, False)
    broken = folder / "degraded/d.png"
    broken.write_bytes(broken.read_bytes()[:60])

    def run(rank):
        try:
            pairs.file_pairs(fake(), learned, 32, 1, quiet=True)
        except ValueError as error:
            assert "d.png" in str(error)
            raise

    assert together(2, folder / "meet", run) == [3, 3]


def test_many_latents_lie_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "IN_MEMORY", 1000)
    parts = torch.randn(5, 4, 3, 2, 2).split([1, 2, 1, 1])  # of 192 bytes a sample
    parts = [part.flatten(0, 1) for part in parts]
    small, large = latents.Latents(None), latents.Latents(tmp_path / "run")
    for part in parts:
        small.add(part)
        large.add(part.double())
    assert small.file is None and large.file is not None and not large.parts
    mapped = large.whole()
    assert torch.equal(mapped, small.whole().double()) and mapped.shape == (20, 3, 2, 2)
    assert torch.equal(mapped[[7, 2]], torch.cat(parts)[[7, 2]].double())
    assert not list((tmp_path / "run").iterdir())
    assert len(latents.Latents(None).whole()) == 0
