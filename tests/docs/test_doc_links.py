"""Links between the pages, their pictures and the code; the site's navigation. `make check` runs this file."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paragraphs_of_a_list_are_indented_for_the_site(page: Path) -> None:
    """After a blank line, mkdocs takes two or three blanks for the end of the list."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\n\n {2,3}\S.*", text) == []


def test_a_link_out_of_the_docs_is_a_file_name_on_the_site() -> None:
    spec = spec_from_file_location("outside_links", DOCS / "assets" / "outside_links.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(DOCS / "methods.md")))
    text = "[base](../mosear/methods/base.py) [`x`](../x.py) [data](data.md#manifest) [w](https://x.org) ![p](../p.png)"
    done = module.on_page_markdown(text, page=page, config={"docs_dir": str(DOCS)}, files=None)
    assert done == "`base` `x` [data](data.md#manifest) [w](https://x.org) ![p](../p.png)"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs: make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "tutorials" / "your-own-clips.html").is_file()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1200
