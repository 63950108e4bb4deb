"""Pages of label sets, scores and series in a real browser: nothing is cut off, and clips show their answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mosear.evaluation.compare import compare
from mosear.evaluation.report import Example, write_report
from mosear.evaluation.report.choice import choose_examples
from mosear.evaluation.summary import summarise
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.kinds import EMOTIONS, LISTS, rows_of, write_run
from tests.helpers.layout import cut_tables, text_outside

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (not on the PATH)")]
KINDS = ("labels", "score", "series")
UNFOLD = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
DETAIL = "document.getElementById('detail')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Report and comparison of every kind."""
    found: dict[str, dict[str, Path]] = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        systems = {"zero_shot": rows_of(kind, model="zero_shot", noise=0.6), "tuned": rows_of(kind, noise=0.2)}
        summaries = {
            name: summarise(rows, LISTS[kind], benchmark="b", steering="none", seed=0, n_boot=50)
            for name, rows in systems.items()
        }
        examples = [
            Example.from_rows({name: next(r for r in rows if r.id == one) for name, rows in systems.items()})
            for one in choose_examples(systems["tuned"], 6)
        ]
        options = {"title": kind, "run_info": {}, "labels": LISTS[kind], "examples": examples}
        write_report(folder / "report.html", summaries=summaries, predictions=systems, **options)
        for seed, noise in enumerate((0.2, 0.3)):
            write_run(folder / "runs" / f"a{seed}", kind, experiment="one", noise=noise, run_seed=seed)
        write_run(folder / "runs" / "b", kind, experiment="other", noise=0.6)
        compare([folder / "runs"], folder / "comparison.html", clips=30, n_boot=50)
        found[kind] = {name: folder / f"{name}.html" for name in ("report", "comparison")}
    return found


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out(kind: str, name: str, width: int, pages: dict, browser: Browser) -> None:
    browser.open(pages[kind][name], width=width)
    browser.run(UNFOLD)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert text_outside(browser) == []
    assert browser.complaints() == []
    assert width < 1000 or not cut_tables(browser)


def details(browser: Browser) -> list[str]:
    """Text of the detail pane for every clip of the list."""
    return browser.run(
        "[...document.querySelectorAll('#list [role=option]')].map(row => { row.click(); return "
        f"{DETAIL}.innerText; }})"
    )


def test_clips_of_sets_show_both_sets(pages: dict, browser: Browser) -> None:
    browser.open(pages["labels"]["comparison"])
    shown = {row.id: row for row in rows_of("labels", noise=0.2)}
    found = details(browser)
    assert len(found) == 30
    for text in found:
        row = next(row for name, row in shown.items() if text.startswith(name + "\n"))
        assert f"true labels: {row.label}" in text
        assert ("unparsed" if row.prediction is None else row.prediction) in text
    assert any("overlap 33 %" in text for text in found) and any("✓" in text for text in found)
    happy = EMOTIONS[0]
    browser.run(
        f"const box = document.getElementById('find'); box.value = {happy!r}; box.dispatchEvent(new Event('input'))"
    )
    assert 0 < len(details(browser)) < 30


def test_clips_of_scores_show_them(pages: dict, browser: Browser) -> None:
    browser.open(pages["score"]["comparison"])
    shown = {row.id: row for row in rows_of("score", noise=0.2)}
    for text in details(browser):
        row = next(row for name, row in shown.items() if text.startswith(name + "\n"))
        assert f"true class: {row.label}" in text and f"true score: {row.score:.3f}" in text
        said = "none" if row.predicted_score is None else f"{row.predicted_score:.3f}"
        assert f"score {said} / " in text


def test_clips_of_series_show_lines_with_gaps(pages: dict, browser: Browser) -> None:
    browser.open(pages["series"]["comparison"])
    shown = {row.id: row for row in rows_of("series", noise=0.2)}
    paths = browser.run(
        "[...document.querySelectorAll('#list [role=option]')].map(row => { row.click(); return "
        f"[{DETAIL}.querySelector('h3').innerText, ...[...{DETAIL}.querySelectorAll('svg.lines')].slice(0, 2)"
        ".map(svg => svg.querySelector('path.truth')?.getAttribute('d') ?? '')]; })"
    )
    assert len(paths) == 30
    for name, *drawn in paths:
        for place, path in enumerate(drawn):
            annotated = [step[place] is not None for step in shown[name].series]
            starts = sum(now and not before for before, now in zip([False, *annotated], annotated, strict=False))
            assert (path.count("M"), path.count("L")) == (starts, sum(annotated) - starts)
