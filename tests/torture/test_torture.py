"""A small part of the torture: every kind of spoilt input, and one run killed until it ends."""

from tests.torture.__main__ import BAD, State, main, report
from tests.torture.trials import KINDS


def test_spoilt_inputs_are_used_or_refused(tmp_path, capsys):
    """Exit status 0: nothing but "accepted" and "refused"; the table names every kind."""
    status = main(
        ["--inputs", "60", "--kills", "2", "--seed", "1", "--out", str(tmp_path / "t.md")]
    )
    table = (tmp_path / "t.md").read_text()
    assert status == 0, table
    for kind in KINDS:
        assert f"| {kind} |" in table
    assert "| train | 1 |" in table


def test_a_bad_verdict_fails(tmp_path):
    """The report counts what went wrong, so that the command can fail."""
    state = State(tmp_path / "state.jsonl")
    state.add(kind="lists", number=0, seconds=0.1, verdicts=[["traceback", "TypeError"]])
    text, bad = report(state, 0)
    assert bad == 1 and "lists: traceback: TypeError" in text
    assert [row["number"] for row in State(tmp_path / "state.jsonl").rows] == [0]
    assert "traceback" in BAD
