"""Means, paired differences and figures of tables, against numbers worked out by hand."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from notebooks import findings
from notebooks.findings import among, difference, grid, printed, said


def rows(*told):
    """Rows of (degradation, seed, states, PSNR of two scenes)."""
    made = []
    for degradation, seed, states, first, second in told:
        one = {"degradation": degradation, "seed": seed, "states": states}
        made.append(one | {"psnr": (first + second) / 2, "psnr_each": f"{first} {second}"})
    return pd.DataFrame(made)


ONE = rows(("rain", 0, "t0", 22, 24), ("haze", 0, "t0", 20, 23), ("haze", 1, "t0", 22, 23))
OTHER = rows(
    ("haze", 0, "naive", 19, 20), ("haze", 1, "naive", 19, 20), ("rain", 0, "naive", 21, 21)
)


def test_differences_pair_scenes_and_seeds():
    found = difference(ONE, OTHER)
    assert list(found.index) == ["haze", "rain", "all"]
    # haze: the scenes differ by 1, 3 and by 3, 3, seeds averaged 2, 3; rain: 1, 3
    assert found.loc["haze", "mean"] == pytest.approx(2.5)
    assert found.loc["haze", "error"] == pytest.approx(0.5)  # sd of 2, 3 is 0.7071, over root 2
    assert found.loc["rain", "error"] == pytest.approx(1.0)
    assert found.loc["all", "mean"] == pytest.approx(2.25)  # of 1.5, 3
    assert found.loc["all", "error"] == pytest.approx(0.75)


def test_differences_take_only_what_both_have():
    found = difference(ONE, among(OTHER, degradation="haze", seed=1))
    assert list(found.index) == ["haze", "all"]
    assert found.loc["haze", "mean"] == pytest.approx(3)
    assert difference(ONE, among(OTHER, degradation="snow")).loc["all"].isna().all()


def test_a_difference_is_clear_beyond_two_errors():
    found = pd.DataFrame({"mean": [1.0, -1.0], "error": [0.6, 0.4]}, index=["haze", "all"])
    assert said(found, "haze") == "+1.00 ± 0.60 dB, a tie: less than two standard errors"
    assert said(found) == "-1.00 ± 0.40 dB, clear"
    assert said(difference(ONE, ONE.iloc[:0])) == "no rows yet"


def test_grids_are_in_the_order_of_the_lectures():
    table = grid(pd.concat([ONE, OTHER]), "degradation", "states")
    assert list(table.index) == ["haze", "rain"] and list(table.columns) == ["naive", "t0"]
    assert table.loc["haze", "t0"] == pytest.approx(22)
    assert printed(table, 1).splitlines()[1].split() == ["haze", "19.5", "22.0"]
    assert printed(grid(ONE.iloc[:0], "degradation", "states")).startswith("no rows yet")


def test_among_takes_one_value_or_a_list():
    assert len(among(ONE, degradation=["haze", "rain"], seed=0)) == 2
    with pytest.raises(KeyError):
        among(ONE, colour="red")


@pytest.mark.parametrize("name", findings.COLUMNS)
def test_a_table_that_is_not_there_has_its_columns(name, monkeypatch, tmp_path):
    monkeypatch.setattr(findings, "RESULTS", tmp_path)
    missing = findings.read(name)
    assert missing.empty and {"backbone", "seed"} < set(missing.columns)
    (tmp_path / name).write_text("backbone,model,seed\nflux,00000001,0\nwan,00000002,0\n")
    assert list(findings.read(name, backbone="flux")["model"]) == ["00000001"]


def test_tables_that_are_there_have_the_columns_the_lectures_read():
    for name, told in findings.COLUMNS.items():
        found = set(findings.read(name).columns)
        assert {*findings.ALWAYS.split(), *told.split()} <= found, name


def test_figures_of_no_rows_are_empty_and_of_rows_are_not():
    figure, (left, right) = plt.subplots(1, 2)
    findings.heat(left, grid(ONE.iloc[:0], "degradation", "states"), "none", 0, 1)
    findings.heat(right, grid(ONE, "degradation", "states"), "some", 20, 25)
    assert not left.images and [text.get_text() for text in right.texts] == ["22.0", "23.0"]
    findings.dots(left, {"t0": difference(ONE, OTHER)}, "differences")
    assert [text.get_text() for text in left.get_yticklabels()] == ["haze", "rain", "all"]
    means = findings.curve(right, ONE, "seed", "psnr")
    assert list(means) == [pytest.approx(22.25), pytest.approx(22.5)]
    plt.close(figure)
