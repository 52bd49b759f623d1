"""The measurements run, on toys: their tables have their rows, and unlike results end them."""

import pytest
import torch

from tests.bench import rehearsal, side_by_side, two_ways


def rows_of(table: str) -> list[list[str]]:
    """Cells of all rows but the head."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][1:]


def test_side_by_side_compares_all_work_of_both_backbones(tmp_path, capsys):
    side_by_side.main(["--small", "--out", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    rows = rows_of(table)
    for name, count in (("FLUX", 8), ("WAN", 7)):
        assert len([row for row in rows if row[0] == name]) == count
    for row in rows:
        assert len(row) == 9 and float(row[2]) < 1e-4 and float(row[5]) > 0
    assert table.count("goal") == 4 + 3 and "not measured" in table


def test_flops_are_counted_for_what_has_a_goal(capsys):
    side_by_side.main(["--small", "--flops", "--backbone", "wan"])
    rows = rows_of(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["forward", "training step", "restoration, 4 steps"]
    assert all(0.3 < float(row[4]) < 1 for row in rows)  # a second output projection is theirs


def test_results_that_differ_are_no_figures(capsys):
    one, other = torch.ones(3), torch.tensor([1.0, 1.0, 1.1])
    pair = two_ways.Pair("work", lambda: one, lambda: other, 1e-4)
    with pytest.raises(SystemExit, match="flux, work: differs by 9.1e-02, no figures"):
        side_by_side.measure("flux", pair, 1)


def test_rehearsal_runs_both_scripts_on_a_folder_that_goes_away(tmp_path, capsys):
    folder, out = tmp_path / "full", tmp_path / "table.md"
    rehearsal.main(["small", str(folder), "--steps", "2", "--out", str(out)])
    assert not folder.exists()
    table = out.read_text()
    found = {(row[0], row[1]): row for row in rows_of(table)}
    assert found["sample", "transformer, forward"][2] == "2"
    assert found["train", "backward"][2] == "1"
    for script in ("sample", "train"):
        assert (script, "**all of it, exit status 0**") in found
        assert float(found[script, "load"][5]) > 0.1
    assert "1 of 1 clips restored" in table and "stopped after step 1 of 2" in table
    assert str(tmp_path) not in table


def test_rehearsal_leaves_a_folder_that_is_there_alone(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(SystemExit, match="is there already"):
        rehearsal.main(["small", str(tmp_path)])
    assert (tmp_path / "mine").read_text() == "kept"


def test_full_size_is_the_published_lists():
    model = rehearsal.MODELS["wan-1.3B"]
    shapes = rehearsal.shapes_of(model, "diffusion_pytorch_model.safetensors")
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 1_418_996_800
    half = rehearsal.values("blocks.0.ffn.0.weight", [5, 3], torch.arange(4.0))
    assert half.tolist() == [0, 1, 2, 3] * 3 + [0, 1, 2]
    assert rehearsal.values("norm3.weight", [2], torch.zeros(4)).tolist() == [1, 1]
