"""The documentation's pictures: drawn from its tables, up to date, and one for every wide table."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from benchmarks.options import ROOT
from benchmarks.plots.__main__ import DOCS, PLOTS, pictures, write
from benchmarks.plots.figures import FIGURES, MAIN, of_tables
from benchmarks.plots.tables import Table, read, tables, value
from tests.helpers.browser import CHROMIUM

_STRICT = re.compile(r"[+-]? ?\d[\d,]*\.?\d*( [\[(][^\])]*[\])]|%| [GM]i?B)?")
_PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "site" not in path.parts]


def test_pictures_are_up_to_date(tmp_path: Path) -> None:
    write(DOCS, tmp_path)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    kept = {path.name: path.read_text(encoding="utf-8") for path in PLOTS.glob("*.svg")}
    assert sorted(made) == sorted(kept), "Run `make plots` and commit docs/images/plots."
    stale = [name for name in made if made[name] != kept[name]]
    assert not stale, f"Run `make plots` and commit docs/images/plots: {stale} differ from their tables."


@pytest.mark.parametrize("figure", [*FIGURES, *of_tables(DOCS)], ids=lambda figure: figure.name)
def test_every_number_comes_from_the_table(figure) -> None:
    table = read(DOCS / figure.page, (*figure.panels, *figure.find))
    cells = {value(cell).text for row in table.rows for cell in row if value(cell)}
    drawn = ElementTree.fromstring(figure.draw(DOCS, "auto"))
    texts = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text") if "value" in node.get("class", "")]
    assert texts, "a picture without numbers"
    assert set(texts) <= cells


def test_another_number_in_the_table_is_another_picture(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("images"))
    page = docs / MAIN.page
    page.write_text(page.read_text(encoding="utf-8").replace("| 22.1 |", "| 33.4 |"), encoding="utf-8")
    before, after = MAIN.draw(DOCS, "auto"), MAIN.draw(docs, "auto")
    assert ">22.1<" in before and ">33.4<" not in before
    assert ">33.4<" in after and ">22.1<" not in after


def _wide(table: Table) -> bool:
    """Four columns of numbers or more, and four rows or more."""
    columns = list(zip(*table.rows, strict=False))
    numeric = [all(not cell or _STRICT.fullmatch(cell) for cell in column) for column in columns[1:]]
    return len(table.rows) >= 4 and sum(numeric) >= 4


def test_every_wide_table_has_a_picture_on_its_page() -> None:
    drawn = {(figure.page, table_columns(figure)): figure.name for figure in (*FIGURES, *of_tables(DOCS))}
    for path in _PAGES:
        text, page = path.read_text(encoding="utf-8"), path.relative_to(DOCS).as_posix()
        for table in filter(_wide, tables(text)):
            name = drawn.get((page, table.columns))
            assert name, f"{page}: no picture of the table {table.columns}; add one to benchmarks.plots.figures."
            assert f"images/plots/{name}.svg)" in text, f"{page} does not show {name}.svg"


def table_columns(figure) -> tuple[str, ...]:
    return read(DOCS / figure.page, (*figure.panels, *figure.find)).columns


def test_every_picture_is_shown_somewhere() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in [*_PAGES, ROOT / "README.md"])
    assert [name for name in pictures(DOCS) if f"plots/{name}" not in shown] == []


def test_the_results_page_has_the_numbers_of_the_full_tables() -> None:
    sources = {
        "the backbones as they are": ("both-natural-long", "zero-shot"),
        "their late fusion": ("both-natural-long", "zero-shot, late fusion"),
        "late fusion + transcript": ("both-natural-long", "zero-shot, late fusion + transcript"),
        "LoRA + conflict mixing": ("both-natural-long", "lora_mixing"),
        "MoSE + conflict mixing": ("both-natural-long", "mosear"),
        "AR, no training": ("both-steered", "zero-shot + ar"),
        "CHASE, no training": ("both-steered", "zero-shot + chase"),
        "the control without the bias": ("both-natural-long", "tiny-omni-balanced, zero-shot"),
    }
    columns = ("consistent", "video aligned", "audio aligned", "contextual", "conflict mean", "gap")
    page = read(DOCS / "results.md", ("system", *columns))
    assert [row[0] for row in page.rows] == list(sources)
    for row in page.rows:
        file, system = sources[row[0]]
        full = read(DOCS / "tables" / f"{file}.md", ("system", *columns))
        source = next(line for line in full.rows if line[0] == system)
        for column in columns:
            said, measured = row[page.columns.index(column)], source[full.columns.index(column)]
            assert said == measured.split(" ")[0], (row[0], column)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("-3.1 [-4.2, -2.0]", (-3.1, -4.2, -2.0)),
        ("+ 19.2 [14.5, 24.4]", (19.2, 14.5, 24.4)),
        ("0.91 (0.88-0.94)", (0.91, 0.88, 0.94)),
        ("1,476", (1476, 1476, 1476)),
        ("23.7%", (23.7, 23.7, 23.7)),
        ("1.7e-03", (0.0017, 0.0017, 0.0017)),
        ("another adapter", None),
        ("", None),
    ],
)
def test_cells_are_read_with_their_intervals(cell: str, expected: tuple[float, ...] | None) -> None:
    found = value(cell)
    assert (found and (found.mean, found.low, found.high)) == expected


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("| a |\n|---|\n| 1 |\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md has no table with the columns b"):
        read(tmp_path / "page.md", ("b",))


def test_a_screenshot_of_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.plots", "screenshot", str(tmp_path / "no")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "finished run" in done.stderr or "PATH" in done.stderr


def test_the_screenshot_of_the_readme_is_small() -> None:
    assert (DOCS / "images" / "report.png").stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (not on the PATH)")
def test_a_screenshot_shows_the_top_of_a_report(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<body style='margin:0;background:#0000ff;height:3000px'>", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.plots", "screenshot", str(tmp_path), "--out", str(tmp_path / "x.png")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (1200, 900)
        assert picture.convert("RGB").getpixel((600, 450)) == (0, 0, 255)
