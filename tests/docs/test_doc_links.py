"""Links between the pages, their pictures and the code; the site's navigation. `make check` runs this file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.doc_links import anchors, broken

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted(DOCS.rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, ROOT) == []


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/.-]+\.md\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:", 2)[-1]))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in pages - listed if not page.startswith("tables/")} == set()
    assert listed - pages == set()


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# A page: `x`\n[b](b.md#here) [c](b.md#there) [d](d.md) ![p](p.svg) [self](#a-page-x) [web](https://x.org)\n"
        '[out](../../etc/passwd) `[code](no.md)`\n\n    [code](no.md)\n\n<img src="q.svg">\n'
    )
    (tmp_path / "b.md").write_text("## Here\n")
    assert [problem.split(": ")[1].split(" ")[0] for problem in broken(tmp_path / "a.md", tmp_path)] == [
        "b.md#there", "d.md", "p.svg", "../../etc/passwd", "q.svg",
    ]  # fmt: skip


def test_repeated_headings_are_numbered() -> None:
    assert anchors("# `lm_head.py`: the head\n## B\n## B\n") == {"lm_headpy-the-head", "b", "b-1"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1200
