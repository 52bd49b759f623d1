"""What a run restores, from folders and lists as people have them, and where it may write."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tinybridge.data import outputs
from tinybridge.data.jobs import find_jobs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(jobs, out: Path) -> dict[str, str]:
    return {job.file.name: str(job.out.relative_to(out)) for job in jobs}


def test_what_is_left_out_is_said_in_one_line(tmp_path):
    photos = touch(
        tmp_path / "in", "a.png", "b.JFIF", "c.jpe", "d.avif", "e.heic", "f.gif", "g.mp4"
    )
    touch(photos, "notes.txt", "Thumbs.db", "._a.png", ".DS_Store", "2024/x.png", "line\nbreak.doc")
    os.mkfifo(photos / "pipe.png")
    jobs, line = find_jobs([photos], None, tmp_path / "out")
    assert [job.file.name for job in jobs] == ["a.png", "b.JFIF", "c.jpe", "d.avif"]
    assert line.startswith("left out: ") and "\n" not in line
    for part in (
        "e.heic, ",
        "notes.txt (no names of pictures)",
        "f.gif, g.mp4 (clips: --backbone wan)",
    ):
        assert part in line
    for part in (
        ".DS_Store, ._a.png (hidden)",
        "2024 (folders: --recursive",
        "pipe.png (no files)",
    ):
        assert part in line
    assert find_jobs([touch(tmp_path / "plain", "a.png")], None, tmp_path / "out")[1] == ""


def test_recursive_keeps_the_structure_and_avoids_its_own_results(tmp_path):
    photos = touch(tmp_path / "in", "a.png", "2024/a.png", "2024/deep/b.jpg", ".trash/c.png")
    touch(photos, "restored/a.png", "restored/2024/a.png", "empty/notes.txt")
    (photos / "loop").symlink_to(photos)
    clean = touch(tmp_path / "gt", "a.png", "2024/deep/b.png")
    out = photos / "restored"
    jobs, line = find_jobs([photos], clean, out, recursive=True)
    found = {str(job.out.relative_to(out)): job.target for job in jobs}
    assert found == {
        "2024/a.png": None, "2024/deep/b.jpg": clean / "2024/deep/b.png", "a.png": clean / "a.png",
    }  # fmt: skip
    assert ["2024: no pictures in it" in job.unmatched for job in jobs].count(True) == 1
    assert "notes.txt" in line and "restored" not in line
    with pytest.raises(ValueError, match="no pictures in it or below it"):
        find_jobs([photos / "empty"], None, out, recursive=True)


def test_a_folder_that_cannot_be_read_costs_no_other(tmp_path, monkeypatch):
    photos = touch(tmp_path / "in", "a.png", "locked/b.png", "z/c.png")
    usual = Path.iterdir

    def refuses(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self)

    monkeypatch.setattr(Path, "iterdir", refuses)
    jobs, line = find_jobs([photos], None, tmp_path / "out", recursive=True)
    assert names(jobs, tmp_path / "out") == {"a.png": "a.png", "c.png": "z/c.png"}
    assert line == f"left out: {photos}/locked (cannot be read)"


def test_recursive_clips(tmp_path):
    films = touch(tmp_path / "in", "a.mp4", "day/b.mkv", "day/walk/1.png", "day/walk/2.png")
    jobs, _ = find_jobs([films], None, tmp_path / "out", video=True, recursive=True)
    assert sorted(names(jobs, tmp_path / "out").values()) == ["a.mp4", "day/b.mkv", "day/walk"]
    jobs, _ = find_jobs([films / "day/walk"], None, tmp_path / "out", video=True)
    assert names(jobs, tmp_path / "out") == {"walk": "walk"}


def test_what_lies_among_the_frames_of_a_clip_is_named(tmp_path):
    films = touch(tmp_path / "in", "walk/1.png", "walk/2.png", "walk/b.mp4", "walk/notes.txt")
    touch(films, "walk/deep/1.png")
    jobs, line = find_jobs([films], None, tmp_path / "out", video=True)
    assert names(jobs, tmp_path / "out") == {"walk": "walk"}
    assert "walk/b.mp4 (among frames)" in line and "walk/notes.txt (no names" in line
    assert "walk/deep (folders: --recursive" in line
    jobs, line = find_jobs([films], None, tmp_path / "out", video=True, recursive=True)
    assert names(jobs, tmp_path / "out") == {"walk": "walk", "deep": "walk/deep"}
    assert "walk/b.mp4 (among frames)" in line and "deep" not in line


def test_results_below_the_input_are_no_clip(tmp_path):
    """Of animations they look like a folder of frames."""
    films = touch(tmp_path / "in", "a.gif", "out/a.webp", "walk/1.png")
    for recursive in (False, True):
        jobs, _ = find_jobs([films], None, films / "out", video=True, recursive=recursive)
        assert names(jobs, films / "out") == {"a.gif": "a.gif", "walk": "walk"}


@pytest.mark.parametrize("path", [".", "deep/..", "../in"])
def test_results_of_a_folder_stay_below_out(tmp_path, monkeypatch, path):
    films = touch(tmp_path / "in", "1.png", "2.png", "deep/notes.txt")
    (films / "l.json").write_text(json.dumps([{"image_path": path}]))
    monkeypatch.chdir(films)
    for given in (Path(path), Path("l.json")):
        jobs, _ = find_jobs([given], None, tmp_path / "out", video=True)
        assert [job.out for job in jobs] == [tmp_path / "out/in"]


def test_several_inputs_of_which_some_are_none(tmp_path):
    one = touch(tmp_path / "one", "a.png")
    (tmp_path / "bad.json").write_text("{")
    inputs = [
        one,
        one / "a.png",
        tmp_path / "gone.png",
        touch(tmp_path / "none", "x.txt") / "x.txt",
    ]
    inputs += [
        tmp_path / "none",
        tmp_path / "bad.json",
        Path("x" * 5000),
        touch(tmp_path, "a.gif") / "a.gif",
    ]
    jobs, _ = find_jobs(inputs, None, tmp_path / "out")
    assert [job.out.name for job in jobs if not job.fault] == ["a.png", "a-2.png"]
    faults = [job.fault for job in jobs if job.fault]
    expected = [
        "no such file or folder",
        "x.txt: expected a name ending in .png",
        "no pictures in it",
    ]
    expected += ["not a list of objects", "no such file", "; clips: --backbone wan"]
    assert all(word in fault for word, fault in zip(expected, faults, strict=True))


def test_rows_of_a_list_fail_one_by_one(tmp_path):
    touch(tmp_path, "a.png", "b.gif", "t.png")
    (tmp_path / "folder").mkdir()
    rows = ["a.png", "b.gif", "", "folder", "https://example.com/a.png", "~/a.png", "n\0l.png"]
    rows = [{"image_path": name, "target_path": "t.png"} for name in [*rows, "y" * 5000 + ".png"]]
    (tmp_path / "list.json").write_text(json.dumps([*rows, "text", {}]))
    jobs, _ = find_jobs([tmp_path / "list.json"], None, tmp_path / "out")
    assert [(job.file.name, job.target.name) for job in jobs if not job.fault] == [
        ("a.png", "t.png")
    ]
    assert len([job for job in jobs if job.fault]) == 9
    folder = touch(tmp_path / "x.json", "a.png")  # called like a list
    assert names(find_jobs([folder], None, tmp_path / "out")[0], tmp_path / "out") == {
        "a.png": "a.png"
    }


def test_two_thousand_rows_of_one_name(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "list.json").write_text(json.dumps([{"image_path": "a.png"}] * 2000))
    jobs, _ = find_jobs([tmp_path / "list.json"], None, tmp_path / "out")
    assert len({job.out for job in jobs}) == 2000 and jobs[-1].out.name == "a-2000.png"
    long = touch(tmp_path / "long", "é" * 125 + "x.png") / ("é" * 125 + "x.png")  # 255 bytes
    jobs, _ = find_jobs([long, long], None, tmp_path / "out")
    assert [len(os.fsencode(job.out.name)) <= 255 for job in jobs] == [True, True]
    assert jobs[1].out.name.endswith("-2.png") and jobs[0].out.name == long.name


def test_out_may_name_the_one_result(tmp_path):
    one, two = touch(tmp_path, "a.png") / "a.png", touch(tmp_path, "c.png") / "c.png"
    assert find_jobs([one], None, tmp_path / "b.jpg")[0][0].out == tmp_path / "b.jpg"
    (tmp_path / "folder.png").mkdir()
    assert (
        find_jobs([one], None, tmp_path / "folder.png")[0][0].out == tmp_path / "folder.png/a.png"
    )
    for inputs, out, line in (
        ([one, two], "b.jpg", "b.jpg: one file's name for 2 results"),
        ([one], "b.mp4", "b.mp4: expected a name ending in .png"),
    ):
        with pytest.raises(ValueError, match=line):
            find_jobs(inputs, None, tmp_path / out)


# ---- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["path", "dots", "symlink", "hard link", "linked folder", "in a folder"]
)
def test_nothing_that_is_read_can_be_an_output(tmp_path, how):
    read = touch(tmp_path / "clean", "a.png") / "a.png"
    touch(tmp_path / "out", "other.png")
    out = tmp_path / "out/a.png"
    if how == "path":
        out = read
    elif how == "dots":
        out = tmp_path / "out/../clean/a.png"
    elif how == "symlink":
        out.symlink_to(read)
    elif how == "hard link":
        out.hardlink_to(read)
    elif how == "linked folder":
        (tmp_path / "alias").symlink_to(tmp_path / "clean")
        out = tmp_path / "alias/a.png"
    else:  # a clip's folder that holds a link to a frame which is read
        out = tmp_path / "out/walk"
        out.mkdir()
        (out / "1.png").hardlink_to(read)
    with pytest.raises(ValueError, match=r"would replace .*a\.png, which is read; choose another"):
        outputs.keep_apart([tmp_path / "out/b.png", out], [tmp_path / "gone.png", read])
    with pytest.raises(ValueError, match="which is read"):
        outputs.keep_apart([out], [read.parent])  # all of a folder, such as weights
    outputs.keep_apart([tmp_path / "out/b.png", tmp_path / "clean/b.png"], [read])


@pytest.mark.parametrize("stem", ["n" * 251, "霧" * 83, os.fsdecode(b"latin1-\xe9"), "a"])
def test_twins_keep_their_letters_and_fit(stem):
    taken: dict[Path, int] = {}
    places = [outputs.free_place(Path(f"out/{stem}.png"), taken) for _ in range(3)]
    assert len(set(places)) == 3
    for number, place in enumerate(places[1:], 2):
        tail = f"-{number}.png"
        assert place.name.endswith(tail) and stem.startswith(place.name.removesuffix(tail))
        assert len(os.fsencode(place.name)) in range(min(252, len(os.fsencode(stem)) + 6), 256)


def test_frames_of_other_names_are_no_finished_result(tmp_path):
    for name in ("in/1.png", "in/2.png", "done/1.png", "done/2.png", "other/1.png", "other/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    assert outputs.is_whole(tmp_path / "done", tmp_path / "in", True)
    assert not outputs.is_whole(tmp_path / "other", tmp_path / "in", True)


def test_folders_that_are_read_get_no_other_files(tmp_path):
    frames = touch(tmp_path / "data/clean/walk", "1.png")
    single = touch(tmp_path / "data/degraded", "a.png") / "a.png"
    (tmp_path / "list.json").touch()
    for out, data in (
        (frames, tmp_path / "data"),
        (frames, tmp_path / "list.json"),
        (single.parent, tmp_path / "data"),
        (tmp_path / "data/clean/../degraded", tmp_path / "data"),
    ):
        with pytest.raises(ValueError, match="its files are read"):
            outputs.keep_out(out, data, [frames, single])
    outputs.keep_out(single.parent, tmp_path / "list.json", [single])
    outputs.keep_out(tmp_path / "data", tmp_path / "data", [frames, single])
    outputs.keep_out(tmp_path / "new", tmp_path / "data", [frames, single])
