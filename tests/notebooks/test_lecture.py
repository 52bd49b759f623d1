"""The lecture kit: slides and links are in place, the paths lead through what is there."""

import copy
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from notebooks import lecture

FOLDER = Path(__file__).parents[2] / "notebooks"
README = (FOLDER / "README.md").read_text()


def notebook(*cells):
    """A notebook of texts, and of codes as pairs of source and outputs."""
    made = []
    for cell in cells:
        if isinstance(cell, str):
            made.append(nbformat.v4.new_markdown_cell(cell))
        else:
            source, outputs = cell
            made.append(nbformat.v4.new_code_cell(source, outputs=outputs))
    return nbformat.v4.new_notebook(cells=made)


BUDGET = [nbformat.v4.new_output("stream", name="stdout", text="budget: full")]
PRINTED = [nbformat.v4.new_output("stream", name="stdout", text="24.1 dB")]
DRAWN = [nbformat.v4.new_output("display_data", {"image/png": "aGk="})]

# ---- the glossary ------------------------------------------------------------------------------


def test_a_glossary_of_25_words_in_order_each_explained():
    text = lecture.GLOSSARY.read_text()
    words = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(words) == 25 and words == sorted(words)
    explained = re.split(r"^### .+$", text, flags=re.MULTILINE)[1:]
    assert all(len(said.split()) > 10 for said in explained)


def linked(*texts):
    book = notebook(*texts)
    lecture.link(book)
    return [cell.source for cell in book.cells]


def test_the_first_use_is_a_link_and_the_second_is_not():
    assert linked("# The prompt\n\nA *prompt* and a prompt.", "One prompt more.") == [
        "# The prompt\n\nA *[prompt](glossary.md#prompt)* and a prompt.",
        "One prompt more.",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "`prompt`",
        "```\nprompt\n```",
        "$prompt$",
        "$$\nprompt\n$$",
        "[a prompt](other.md)",
        "# A prompt",
        "1. A prompt",
        "prompt.py",
        "a/prompt/b",
        "no prompt-like word",
    ],
)
def test_a_word_that_is_no_text_is_passed_over(source):
    assert linked(source, "Then a prompt.") == [source, "Then a [prompt](glossary.md#prompt)."]


def test_longer_words_go_first_plural_and_across_lines():
    (source,) = linked("The null\nprompt is told; Prompts are learned.")
    assert source == (
        "The [null\nprompt](glossary.md#null-prompt) is told; "
        "[Prompts](glossary.md#prompt) are learned."
    )


def test_the_residual_stream_is_not_the_residual():
    (source,) = linked("The residual stream, then the residual.")
    assert source == "The residual stream, then the [residual](glossary.md#residual)."


def test_linking_again_changes_nothing_and_mends_what_was_moved():
    book = notebook("A state.", "A bridge, a state.")
    lecture.link(book)
    once = [cell.source for cell in book.cells]
    lecture.link(book)
    assert [cell.source for cell in book.cells] == once
    book.cells.reverse()
    lecture.link(book)
    assert book.cells[1].source == "A state."
    assert "[state](glossary.md#state)" in book.cells[0].source


# ---- slides and paths --------------------------------------------------------------------------


def test_slides_begin_at_headlines_and_leave_silent_code_out():
    book = notebook(
        "# 4. Title", ("import os", BUDGET), "## 1. First", "text", ("1", PRINTED), ("2", DRAWN)
    )
    lecture.tag(book, "04_title.ipynb")
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in book.cells]
    assert kinds == ["slide", "skip", "slide", "fragment", "fragment", "fragment"]


def test_a_path_takes_whole_sections(monkeypatch):
    monkeypatch.setattr(lecture, "PATHS", {"45": {"04": (0, 2)}})
    book = notebook("# 4. Title", "intro", "## 1. First", "text", "## 2. Second", ("1", PRINTED))
    lecture.tag(book, "04_title.ipynb")
    assert [cell.metadata["tags"] for cell in book.cells] == [["45"]] * 2 + [[]] * 2 + [["45"]] * 2
    cells = lecture.deck("45", {"04_title.ipynb": book}).cells
    assert [cell.source for cell in cells] == ["# 4. Title", "intro", "## 2. Second", "1"]
    lecture.tag(book, "05_other.ipynb")
    assert all(cell.metadata["tags"] == [] for cell in book.cells)


def test_minutes_count_words_pictures_and_for_readers_code():
    book = notebook("word " * 130, ("a = 1\n" * 15, []), ("show()", DRAWN), ("print()", PRINTED))
    assert lecture.minutes(book.cells) == pytest.approx(1 + 40 / 60 + 15 / 60)
    read = lecture.minutes(book.cells, read=True)
    assert read == pytest.approx(1 + 40 / 60 + 15 / 60 + 17 * 4 / 60)


def test_a_deck_is_never_written_over_a_file(tmp_path, capsys):
    out = tmp_path / "deck.ipynb"
    out.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        lecture.main(["--deck", "45", str(out)])
    assert stop.value.code == 2 and "is not replaced" in capsys.readouterr().err
    assert out.read_text() == "mine"


# ---- what is committed -------------------------------------------------------------------------


def test_an_appendix_is_on_no_path():
    book = notebook("# 4. Title", "## 1. First", "## Appendix A: names", "text", "## 2. Second")
    assert lecture.sections(book) == [0, 1, -1, -1, 2]


NOTEBOOKS = {
    path.name: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_is_dressed(name):
    dressed = lecture.dress(copy.deepcopy(NOTEBOOKS[name]), name)
    assert dressed == NOTEBOOKS[name], "run python notebooks/lecture.py"


def test_an_undressed_notebook_is_seen():
    book = copy.deepcopy(NOTEBOOKS["00_a_world_of_points.ipynb"])
    del book.cells[3].metadata["slideshow"]
    assert lecture.dress(copy.deepcopy(book), "00_a_world_of_points.ipynb") != book


@pytest.mark.parametrize("path", lecture.PATHS)
def test_a_path_leads_through_sections_that_exist_in_its_time(path):
    total = 0.0
    found = {name[:2]: (name, notebook) for name, notebook in NOTEBOOKS.items()}
    assert len(found) == len(NOTEBOOKS), "two notebooks have one number"
    for number, chosen in lecture.PATHS[path].items():
        name, book = found[number]
        assert set(chosen) <= set(lecture.sections(book)), f"{name} has not sections {chosen}"
        total += lecture.minutes(lecture.on_path(path, book, name))
    assert 0.7 * float(path) <= total <= float(path), f"{total:.0f} minutes: choose other sections"


def test_readme_tells_the_paths_as_they_are():
    """Minutes to within two, so that a word more in a notebook changes no README."""
    count = re.compile(r" (-?\d+) \|$", re.MULTILINE)
    fresh = lecture.tabled(README, NOTEBOOKS)
    assert count.sub("", fresh) == count.sub("", README), "run python notebooks/lecture.py"
    told, now = count.findall(README), count.findall(fresh)
    assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(told, now, strict=True))


def test_readme_lists_the_exercises_as_they_are():
    exercises = (FOLDER / "exercises").glob("*.ipynb")
    rows = []
    for path in sorted(exercises):
        for cell in nbformat.read(path, as_version=4).cells:
            if found := re.match(r"## (\d+)\. (.+)\n\n\*(\w+), (\d+) minutes\*", cell.source):
                rows.append("| {} | {} | {} | {} |".format(*found.groups()))
    assert len(rows) == 12 and "\n".join(rows[:7]) in README and "\n".join(rows[7:]) in README


@pytest.mark.parametrize("name", ["README.md", "glossary.md", "history.md"])
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([\w./-]+)\)", (FOLDER / name).read_text())
    assert links and all((FOLDER / link).exists() for link in links)


def test_a_figure_is_a_vector_file_where_one_asks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import figures  # as a notebook does

    monkeypatch.setenv("TINYBRIDGE_FIGURES", str(tmp_path / "04"))
    monkeypatch.setattr(figures, "SHOWN", itertools.count(1))
    for _ in range(2):
        figures.show(figures.plt.subplots(figsize=(1, 1))[0])
    first, second = ((tmp_path / f"04-{k}.svg").read_text() for k in (1, 2))
    assert first == second and "<svg" in first
    monkeypatch.delenv("TINYBRIDGE_FIGURES")
    figures.show(figures.plt.subplots(figsize=(1, 1))[0])
    assert len(list(tmp_path.iterdir())) == 2
