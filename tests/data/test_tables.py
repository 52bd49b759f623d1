"""What is written appears whole or not at all, beside whatever else lies there; tables as CSV."""

import errno
import os
import stat

import pytest

from tinybridge.data.tables import load_table, replacing, save_table


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_appears_at_the_end_with_its_folders_and_usual_rights(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    with replacing(path) as scratch:
        assert scratch.parent == path.parent
        scratch.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and names(path.parent) == ["note.txt"]
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError("not ours")])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, replacing(path) as scratch:
        scratch.write_text("half")
        raise error
    assert caught.value is error
    assert path.read_text() == "old" and names(tmp_path) == ["note.txt"]


def test_files_of_others_are_neither_used_nor_touched(tmp_path):
    others = ["note.txt.tmp", "note.txt.old", "note.tmp", ".note.txt.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "clip.tmp").mkdir()
    for name in ("note.txt", "clip"):
        with replacing(tmp_path / name) as first, replacing(tmp_path / name) as second:
            assert not first.exists() and first != second
            first.write_text("1")
            second.write_text("2")
        assert (tmp_path / name).read_text() == "1"
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    assert names(tmp_path) == sorted([*others, "clip.tmp", "note.txt", "clip"])


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".png", "霧" * 85, "a"])
def test_every_name_that_the_system_takes_can_be_written(tmp_path, name):
    with replacing(tmp_path / name) as scratch:
        scratch.write_text("new")
    assert names(tmp_path) == [name]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    path = tmp_path / "clip"
    for content in (["1.png", "2.png"], ["1.png"]):
        with replacing(path) as scratch:
            scratch.mkdir()
            for name in content:
                (scratch / name).touch()
        assert names(path) == content and names(tmp_path) == ["clip"]
    with pytest.raises(RuntimeError), replacing(path) as scratch:
        scratch.mkdir()
        raise RuntimeError
    assert names(path) == ["1.png"] and names(tmp_path) == ["clip"]


def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(tmp_path, monkeypatch):
    path, moved = tmp_path / "clip", os.replace

    def refuse(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error", str(source))
        moved(source, target)

    (path / "old").mkdir(parents=True)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"clip: cannot be written \(Input"), replacing(path) as new:
        new.mkdir()
    assert names(path) == ["old"] and names(tmp_path) == ["clip"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_folder_survives_an_interrupt_between_any_two_moves(tmp_path, monkeypatch, after):
    path, moved, moves = tmp_path / "clip", os.replace, []

    def interrupted(source, target):
        moves.append(source)
        if len(moves) > after:
            monkeypatch.undo()
            raise KeyboardInterrupt
        moved(source, target)
        if len(moves) == after:
            monkeypatch.undo()
            raise KeyboardInterrupt

    (path / "old").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), replacing(path) as new:
        (new / "new").mkdir(parents=True)
        monkeypatch.setattr(os, "replace", interrupted)
    assert names(path) == (["new"] if after == 2 else ["old"])
    assert names(tmp_path) == ["clip"]


def test_what_the_system_refuses_is_one_line_that_names_the_place(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    beneath, folder = tmp_path / "file" / "note.txt", tmp_path / "folder"
    for path in (beneath, folder, tmp_path / ("n" * 256)):
        with pytest.raises(OSError) as caught, replacing(path) as scratch:
            scratch.write_text("new")
        assert str(caught.value).startswith(f"{path}: cannot be written (")
        assert caught.value.errno is None and ".tmp" not in str(caught.value)
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "full") as scratch:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == ["file", "folder"] and names(folder) == ["inside"]


def test_an_error_about_a_file_that_is_read_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "out") as scratch:
        scratch.touch()
        (tmp_path / "input").open()
    assert caught.value.filename == str(tmp_path / "input")


def test_a_table_comes_back_as_numbers(tmp_path):
    file = tmp_path / "log.csv"
    rows = [
        {"step": 1, "loss": 0.1 + 0.2, "what": "a, b"},
        {"step": 2, "loss": 1e-30},
    ]
    save_table(file, "step loss psnr what", rows)
    assert load_table(file) == rows
    assert file.read_text().splitlines()[0] == "step,loss,psnr,what"
    assert stat.S_IMODE(file.stat().st_mode) & stat.S_IRUSR


def test_a_name_that_is_not_utf_8_keeps_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    name = os.fsdecode(b"latin1-\xe9 \xe9\x9c\xa7.png")
    save_table(tmp_path / "metrics.csv", "picture psnr", [{"picture": name, "psnr": 20.0}])
    assert b"latin1-\xe9 \xe9\x9c\xa7.png,20.0" in (tmp_path / "metrics.csv").read_bytes()
    assert load_table(tmp_path / "metrics.csv") == [{"picture": name, "psnr": 20.0}]


@pytest.mark.parametrize("content", ['a,b\n1,"2\n', "a,b\n1,2,3\n"])
def test_a_broken_table_is_named(tmp_path, content):
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(ValueError, match=r"log\.csv: not a readable table"):
        load_table(tmp_path / "log.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        load_table(tmp_path / "none.csv")
