"""claims.py: what a claim is, what makes it fail, and that it does so when a row goes."""

import pytest

from notebooks import claims

TABLE = """where,one,other,difference,error,psnr
haze,desired,naive,4.11,0.33,24.1437
rain,desired,naive,2.63,0.08,25.26
haze,"desired 20",ddbm,0.38,0.28,23.76
"""
TEXT = """# Title

Desired leads naive.
<!-- claim: t.csv one=desired other=naive | difference > 2 * error; rows = 2 -->

It reaches 24.14 dB on haze.
<!-- claim: t.csv where=haze one=desired | psnr = 24.14 -->

```
24.99 dB in code is no claim
```
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "README.md").write_text(TEXT)
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    return tmp_path


def one(comment: str, sentence: str = "Something is so.") -> list[str]:
    (claim,) = claims.find(f"{sentence}\n<!-- claim: {comment} -->\n")
    return claims.check(claim)


def test_claims_that_hold_are_printed_with_their_rows(root, capsys):
    assert claims.main(["README.md"]) == 0
    out = capsys.readouterr().out
    assert "README.md:4: Desired leads naive." in out
    assert "README.md:7: It reaches 24.14 dB on haze." in out
    assert out.count("t.csv: where haze, one desired, other naive, difference 4.11") == 2
    assert out.count("where rain") == 1 and "2 claims, 0 fail" in out


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_row_that_goes_is_missed(root, capsys, lost):
    lines = TABLE.splitlines(keepends=True)
    (root / "t.csv").write_text("".join(lines[:lost] + lines[lost + 1 :]))
    gone = claims.main(["README.md"])
    assert gone == (0 if lost == 3 else 1), "the third row is behind no claim"


@pytest.mark.parametrize(
    ("comment", "fault"),
    [
        ("u.csv one=desired", "u.csv: no such table"),
        ("t.csv two=desired", "no column two"),
        ("t.csv one=late", "no row with one=late"),
        ("t.csv one", "column=value is expected"),
        ("t.csv where=rain | difference > 3", "does not hold of where rain"),
        ("t.csv where=haze | rows = 3", "does not hold"),
        ("t.csv where=rain | psnr = 25.27", "does not hold"),
        ("t.csv where=rain | gain > 1", "could not convert"),
        ("t.csv where=rain | psnr", "LEFT OP RIGHT is expected"),
    ],
)
def test_what_makes_a_claim_fail(root, comment, fault):
    assert any(fault in found for found in one(comment))


@pytest.mark.parametrize(
    "comment",
    [
        't.csv one="desired 20" | difference <= 0.38',
        "t.csv where=haze error=0.330 | psnr - difference > 20",
        "t.csv where=rain | difference >= 30 * error; psnr < difference * 10",
        "t.csv where=haze one=desired | psnr = 24.1; psnr = 24.1437; error = 0.330",
        "t.csv",
    ],
)
def test_what_may_be_said(root, comment):
    assert one(comment) == []


def test_a_number_stands_in_a_condition_of_its_paragraph(root):
    said = "t.csv where=haze one=desired | psnr = 24.14"
    assert one(said, "It reaches 24.14 dB.") == []
    assert one(said, "It reaches 24.2 dB.") == ["24.2 stands in no = condition here"]
    assert one(said, "It is 3 times better at t0 = 0.4.") == []
    two = "It gains 4.11 dB.\n<!-- claim: t.csv where=haze one=desired | difference = 4.11 -->\n"
    two += f"That makes 24.14 dB.\n<!-- claim: {said} -->\n"
    assert [claims.check(claim) for claim in claims.find(two)] == [[], []]
