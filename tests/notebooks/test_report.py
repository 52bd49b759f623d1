"""What is made of the rows: differences, gains, and what they cost."""

import pandas as pd
import pytest

from notebooks.experiments import analysis, everything, report, table


def test_pairs_average_seeds_scene_by_scene():
    rows = []
    for seed, psnrs in ((0, ("10 20 30", "11 22 33")), (1, ("12 20 32", "11 24 35"))):
        for method, each in zip(("a", "b"), psnrs, strict=True):
            row = {"where": "haze", "method": method, "seed": seed, "psnr_each": each}
            rows.append(row)
    compared = report.Compared(("method",), ("a",))
    (found,) = report.differences(pd.DataFrame(rows), compared)
    mean, error = analysis.paired([11, 23, 34], [11, 20, 31])
    assert (found["one"], found["other"], found["better"]) == ("b", "a", 2)
    assert found["difference"] == pytest.approx(mean) and found["error"] == pytest.approx(error)
    assert (found["seeds"], found["scenes"]) == (2, 3)
    assert found["spread"] == pytest.approx(0)  # 2 and 2


def test_hours_count_a_job_once_whatever_rows_it_has(tmp_path):
    names = table.columns(everything.COLUMNS["cross.csv"])
    rows = [("aa", 0, 3600.0), ("aa", 0, 3600.0), ("aa", 1, 3600.0), ("aa", 1, 1800.0)]
    made = [{"model": model, "seed": seed, "seconds": spent} for model, seed, spent in rows]
    table.append(tmp_path / "cross.csv", names, made)
    more = [{"model": "aa", "seed": 0, "seconds": 3600.0}]
    table.append(tmp_path / "words.csv", table.columns(everything.COLUMNS["words.csv"]), more)
    found = {row["table"]: row for row in report.hours(tmp_path)}
    assert (found["cross.csv"]["hours"], found["cross.csv"]["seeds"]) == (2.5, 2)
    assert (found["words.csv"]["hours"], found["all"]["hours"]) == (1.0, 3.5)


def test_gains_are_over_the_better_of_degraded_and_frozen_model(tmp_path):
    report.write(tmp_path)
    assert (tmp_path / "argument.md").read_text().startswith("| gain in PSNR, dB |\n")
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 0
    values = {"degraded - - 4": 15.0, "none - desired 4": 16.0, "naive x0 euler 20": 20.25}
    rows = [("cross", "haze", method, psnr) for method, psnr in values.items()]
    rows.append(("heads", "haze inside", "convolution 512", 15.5))
    means = pd.DataFrame(rows, columns=["table", "where", "method", "psnr"])
    gains, whole = report.argument(means).to_dict("records")
    assert whole["degradation"] == "all" and whole["naive"] == gains["naive"]
    assert (gains["naive"], gains["convolution"]) == (4.25, -0.5)
    text = report.markdown(pd.DataFrame([gains]))
    assert "| P, naive | +4.2 |" in text and "| P, ddbm | - |" in text
