"""Pairs: matched by name, read from lists, cut into crops."""

import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_clips import animation, folder
from tests.data.test_video import film_file
from tinybridge.data import clips, pairs, pictures


def test_pairs_of_a_folder_by_name_then_stem(tmp_path):
    for name in ("degraded/1.png", "degraded/2.png", "clean/2.jpg", "clean/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(p.degraded.name, p.clean.name) for p in pairs.pairs(tmp_path)]
    assert found == [("1.png", "1.png"), ("2.png", "2.jpg")]
    (tmp_path / "clean/2.jpg").unlink()
    (tmp_path / "degraded/3.png").touch()
    one, *others = pairs.pairs(tmp_path)  # the good one is kept, all others say what lacks
    assert one.clean.name == "1.png" and not one.fault
    for name, pair in zip(("2.png", "3.png"), others, strict=True):
        assert pair.clean is None and f"{name}: no file has its name in" in pair.fault
        with pytest.raises(ValueError, match=f"{name}: no file has its name in"):
            pairs.crops(pair, 8)


def test_authors_lists(tmp_path):
    rows = [
        {
            "image_path": "in/1.png",
            "target_path": "gt/1.png",
            "degradation": "haze",
            "dataset": "x",
        },
        {"image_path": "/abs/2.png", "target_path": None, "degradation": "rain", "dataset": "x"},
    ]
    file = tmp_path / "list.json"
    file.write_text(json.dumps(rows))
    first, second = pairs.pairs(file)
    assert first == pairs.Pair(tmp_path / "in/1.png", tmp_path / "gt/1.png", "haze")
    assert str(second.degraded) == "/abs/2.png" and second.clean is None
    assert pairs.pairs(file, "haze") == [first]
    with pytest.raises(ValueError, match="no rows of snow; it has haze, rain"):
        pairs.pairs(file, "snow")


@pytest.mark.parametrize("text", ["{", "7", '["a"]', '[{"image": "a"}]', '{"image_path": "a"}'])
def test_malformed_lists(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=r"list\.json: not a list of objects") as caught:
        pairs.pairs(tmp_path / "list.json")
    assert "\n" not in str(caught.value)


def test_crops_cover_a_pair_alike(tmp_path):
    degraded, clean = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    pictures.write(tmp_path / "d.png", degraded)
    pictures.write(tmp_path / "c.png", clean)
    pair = pairs.Pair(tmp_path / "d.png", tmp_path / "c.png")
    d, c = pairs.crops(pair, 32)
    assert d.shape == c.shape == (6, 3, 32, 32)  # 2 rows and 3 columns
    assert (c[-1] - clean[:, 18:, 38:]).abs().max() < 0.003  # the last one ends at the corner
    assert (d[0] - degraded[:, :32, :32]).abs().max() < 0.003
    seen = torch.zeros(50, 70)
    for top in pairs.starts(50, 32):
        for left in pairs.starts(70, 32):
            seen[top : top + 32, left : left + 32] = 1
    assert seen.min() == 1
    with pytest.raises(ValueError, match=r"70x50, smaller than the training size: use --size 50"):
        pairs.crops(pair, 64)


def test_pairs_of_clips(tmp_path):
    for side, films in (("degraded", ["b.gif", "c.mp4"]), ("clean", ["b.mkv", "c.mp4"])):
        walk = folder(tmp_path / side / "a")
        for name in films:
            make = animation if name.endswith("gif") else film_file
            make(walk.parent / name, [50] * 3 if make is animation else 3)
    found = pairs.pairs(tmp_path, "snow", video=True)
    names = [(p.degraded.name, p.clean.name, p.degradation) for p in found]
    assert names == [("a", "a", "snow"), ("b.gif", "b.mkv", "snow"), ("c.mp4", "c.mp4", "snow")]
    one = tmp_path / "clean" / "a"  # both folders hold frames: one pair
    folder(tmp_path / "two" / "degraded"), folder(tmp_path / "two" / "clean")
    assert [p.clean.name for p in pairs.pairs(tmp_path / "two", video=True)] == ["clean"]
    (tmp_path / "clean" / "b.mkv").unlink()
    fault = pairs.pairs(tmp_path, video=True)[1].fault
    assert re.search("b.gif: no file has its name in .*clean", fault)
    row = {"image_path": "degraded/a", "target_path": "clean/a", "degradation": "fog"}
    (tmp_path / "list.json").write_text(json.dumps([row]))
    [pair] = pairs.pairs(tmp_path / "list.json", "fog", video=True)
    assert (pair.degraded, pair.clean) == (tmp_path / "degraded" / "a", one)


def test_clip_crops_cover_a_pair(tmp_path):
    one, two = folder(tmp_path / "one", 11), folder(tmp_path / "two", 11)
    for file in one.iterdir():
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    windows = list(pairs.clip_crops(pairs.Pair(one, two), 20, 4))
    assert [w[0].shape for w in windows] == [(4, 3, 4, 20, 20)] * 3  # 2 x 2 squares, 3 windows
    whole = torch.cat(list(clips.read(clips.open_clip(two))), 1)
    for start, (degraded, clean) in zip((0, 4, 7), windows, strict=True):
        corners = [(0, 0), (0, 16), (4, 0), (4, 16)]
        for cube, (y, x) in zip(clean, corners, strict=True):
            assert torch.equal(cube, whole[:, start : start + 4, y : y + 20, x : x + 20])
        assert torch.allclose(degraded, 1 - clean, atol=1e-6)
    assert len(list(pairs.clip_crops(pairs.Pair(one, two), 24, 11))) == 1


def test_clip_crops_that_cannot_be(tmp_path):
    one, two, wide = (folder(tmp_path / name, n, 24, W) for name, n, W in PAIR)
    for pair, side, n, line in (
        ((one, two), 20, 4, "one and its pair .*two have 5 and 6 frames"),
        ((one, wide), 20, 4, "one is 36x24 but its pair .*wide is 37x24"),
        ((one, one), 25, 4, "36x24, smaller than the training size: use --size 24"),
        ((one, one), 20, 6, "has 5 frames, fewer than 6: use fewer frames"),
        ((one, None), 20, 4, "no target_path"),
    ):
        with pytest.raises(ValueError, match=line):
            list(pairs.clip_crops(pairs.Pair(*pair), side, n))


PAIR = (("one", 5, 36), ("two", 6, 36), ("wide", 5, 37))


# ---- names as people have them -------------------------------------------------------------------


def touch(folder, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def matched(path) -> dict[str, str]:
    return {pair.degraded.name: pair.clean.name for pair in pairs.pairs(path)}


def test_names_are_compared_in_composed_form_and_any_case(tmp_path):
    """macOS writes an e and its accent as two code points, Linux and Windows as one."""
    touch(tmp_path / "degraded", "e\u0301.png", "IMG_3.PNG", "u\u0308.jpg", "same.png", "SAME.png")
    touch(tmp_path / "clean", "\u00e9.png", "img_3.png", "\u00dc.png", "same.png", "SAME.png")
    assert matched(tmp_path) == {
        "e\u0301.png": "\u00e9.png",
        "IMG_3.PNG": "img_3.png",
        "u\u0308.jpg": "\u00dc.png",  # another suffix and another case
        "same.png": "same.png",
        "SAME.png": "SAME.png",
    }


def test_twins_do_not_share_a_partner(tmp_path):
    touch(tmp_path / "degraded", "a.png", "A.png")
    touch(tmp_path / "clean", "a.png")
    assert "a.png: A.png has the same partner" in pairs.pairs(tmp_path)[1].fault
    touch(tmp_path / "two/degraded", "b.bmp")
    touch(tmp_path / "two/clean", "b.png", "b.jpg")
    fault = pairs.pairs(tmp_path / "two")[0].fault
    assert re.search(r"b\.bmp: 2 files have its name .*: b\.jpg, b\.png", fault)


def test_hidden_files_and_other_spellings_of_the_folders(tmp_path):
    touch(tmp_path / "Degraded", "0.png", "._0.png", ".DS_Store", "Thumbs.db")
    touch(tmp_path / "CLEAN", "0.png", "._0.png", ".hidden.png")
    assert matched(tmp_path) == {"0.png": "0.png"}


def test_matching_takes_linear_time(tmp_path):
    n = 10_000
    touch(tmp_path / "degraded", *(f"{k}.jpg" for k in range(n)))
    touch(tmp_path / "clean", *(f"{k}.png" for k in range(n)))
    began = time.process_time()
    assert len(matched(tmp_path)) == n
    assert time.process_time() - began < 6  # about 1 s; a search per file took half an hour


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_lists_in_every_encoding_of_json(tmp_path, encoding):
    touch(tmp_path / "in", "é.png")
    rows = [{"image_path": "in\\é.png", "target_path": "C:\\é.png"}, {"image_path": "in/ü.png"}]
    text = json.dumps(rows, ensure_ascii=False)
    (tmp_path / "list.json").write_bytes(text.encode(encoding))
    one, two = pairs.pairs(tmp_path / "list.json")
    assert (one.degraded, one.clean) == (tmp_path / "in/é.png", tmp_path / "C:/é.png")
    assert (two.degraded, two.clean) == (tmp_path / "in/ü.png", None)


def test_one_bad_row_does_not_refuse_a_list(tmp_path):
    rows = [{"image_path": "a.png"}, {"image_path": ""}, 7, None, {"image_path": ["x"]}, {}]
    rows += [{"image_path": "b.png", "target_path": 3}, {"image_path": "c.png", "target_path": ""}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    found = pairs.pairs(tmp_path / "list.json")
    assert [pair.degraded.name for pair in found if not pair.fault] == ["a.png", "c.png"]
    faults = [pair.fault for pair in found if pair.fault]
    assert [f"row {k} has" in fault for k, fault in zip(range(2, 8), faults, strict=True)]
    assert all("list.json: row " in fault and "\n" not in fault for fault in faults)
    with pytest.raises(ValueError, match="row 2 has no image_path"):
        pairs.crops(found[1], 8)


def test_a_folder_may_be_called_like_a_list(tmp_path):
    touch(tmp_path / "x.json/degraded", "a.png")
    touch(tmp_path / "x.json/clean", "a.png")
    assert matched(tmp_path / "x.json") == {"a.png": "a.png"}


def test_what_pairs_pass_over_is_said_in_one_line(tmp_path):
    touch(tmp_path / "degraded", "a.png", "b.heic", ".DS_Store")
    touch(tmp_path / "degraded/deep", "c.png")
    touch(tmp_path / "clean", "a.png", "more.png", "film.mp4")
    line = pairs.left_out(tmp_path, pairs.pairs(tmp_path))
    assert line == (
        "left out: degraded/.DS_Store (hidden); degraded/b.heic (no names of pictures); "
        "degraded/deep (folders); clean/film.mp4 (clips: --backbone wan); "
        "clean/more.png (no partner)"
    )
    touch(tmp_path / "all/degraded", "a.png"), touch(tmp_path / "all/clean", "a.jpg")
    assert pairs.left_out(tmp_path / "all", pairs.pairs(tmp_path / "all")) == ""


def test_what_lies_among_the_frames_of_a_clip_is_named(tmp_path):
    for side in ("degraded", "clean"):
        for name in ("a/1.png", "b/1.png"):
            (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / side / name).touch()
    (tmp_path / "clean/b/x.mp4").touch()
    found = pairs.pairs(tmp_path, video=True)
    assert pairs.left_out(tmp_path, found, True) == "left out: clean/b/x.mp4 (among frames)"
