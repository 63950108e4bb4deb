"""The pages in a real browser: what is written is seen, on a phone and on a wide screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mosear.data.synthetic.mp4 import write_clip
from mosear.evaluation.bias import ALL, Direction
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare import compare
from mosear.evaluation.report import Example, LineChart
from mosear.evaluation.report.bias_page import write_bias
from mosear.evaluation.report.clip_media import Embedder
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.comparison_runs import write_run
from tests.helpers.layout import cut_tables, text_outside
from tests.helpers.report_pages import LABELS, make_rows, render

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (not on the PATH)")]
WIDE = ["WMWMWMWMWM", "frustrated", "UNDECIDED STATE"]
UNFOLD = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
SUBSETS = ("consistent", "video_aligned", "audio_aligned", "contextual", "missing_video", "missing_audio")


def with_wide_labels(rows):
    names = dict(zip(LABELS, WIDE, strict=True))
    return [replace(row, label=names[row.label], prediction=names.get(row.prediction)) for row in rows]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    systems = {
        name: with_wide_labels(make_rows(name, right, SUBSETS, seed=seed))
        for seed, (name, right) in enumerate({"zero_shot": 0.4, "tuned": 0.9}.items())
    }
    rng = np.random.default_rng(0)
    telemetry = {"clips": 9, "modalities": ["audio", "visual", "text"], "flagged": rng.random((3, 6)).tolist()}
    telemetry |= {when: rng.dirichlet(np.ones(3), (3, 6)).tolist() for when in ("before", "after")}
    clip = tmp_path_factory.mktemp("media") / f"{'long_' * 30}name.mp4"
    sound = np.sin(np.arange(8000) / 8)
    write_clip(clip, np.repeat(np.arange(8, dtype=np.uint8) * 30, 32 * 32 * 3).reshape(8, 32, 32, 3), 8, sound, 8000)
    embed, short = Embedder(folder, 2), Embedder(folder, 1e-6)
    media = [embed(clip, "video"), embed(None, clip), embed(clip, None), short(clip, "video")]
    examples = [Example.from_rows({name: rows[i] for name, rows in systems.items()}) for i in (1, 60, 100, 140)]
    render(
        folder,
        systems,
        labels=WIDE,
        examples=[replace(example, media=own) for example, own in zip(examples, media, strict=True)],
        run_info={"config": {"data.root": "/a/rather/long/path" * 6, "n": 1}},
        charts=[LineChart(title="loss", series={"train": [(0, 1.0), (7, 0.2)]}, caption="The loss.")],
        extra={"tuned": {"steering_telemetry": telemetry}},
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several systems with their controls on the corpus' seven subsets, as a sweep leaves them."""
    folder = tmp_path_factory.mktemp("comparison")
    more = tuple(SUBSETS[3:]) + ("missing_text",)
    write_run(folder / "runs" / "0", model="zero_shot", more_subsets=more)
    for number, steering in enumerate(("none", "ar", "chase"), 1):
        write_run(folder / "runs" / str(number), experiment="mosear_plain", steering=steering, more_subsets=more)
    compare([folder / "runs"], folder / "comparison.html", clips=5, n_boot=50)
    return folder / "comparison.html"


@pytest.fixture(scope="module")
def bias(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bias")
    share, index = Interval(0.71, 0.685, 0.74), Interval(-0.42, -0.48, -0.37)
    found = Direction(
        n=9000,
        shares=dict.fromkeys(("face", "voice", "neither", "unread"), share),
        text=share,
        text_n=100,
        index=index,
        evidence=Interval(-1.0, -1.0, -1.0),
        beyond=index,
    )
    parts = {ALL: found, "video_aligned": found}
    write_bias(folder, {"tiny-omni": parts, "W" * 80: parts}, clips="rendered clips", clustered=True, n_boot=10)
    return folder / "bias.html"


@pytest.mark.parametrize("width", [360, 400, 760, 1280, 1600])
@pytest.mark.parametrize("name", ["report", "comparison", "bias"])
def test_no_text_sticks_out_of_its_card_or_graphic(
    name: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(name), width=width)
    for _ in range(2):
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert text_outside(browser) == []
        browser.run(UNFOLD)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_wide_tables_scroll_inside_their_card_on_a_phone(
    name: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(name), width=400)
    browser.run(UNFOLD)
    ends = browser.run(
        "[...document.querySelectorAll('.scroll')].map(card => { card.scrollLeft = 1e6; return "
        "[card.scrollLeft + card.clientWidth - card.scrollWidth, card.getBoundingClientRect().right,"
        " getComputedStyle(card).overflowX]; })"
    )
    assert ends and all(abs(left) <= 1 and right <= 400 and overflow == "auto" for left, right, overflow in ends)
    assert cut_tables(browser)  # so that there was something to scroll


def test_a_copied_report_plays_its_clips(report: Path, browser: Browser, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere.html"
    copied.write_bytes(report.read_bytes())
    browser.open(copied, width=400)
    played = browser.run(
        """Promise.all([...document.querySelectorAll("video, audio")].map(async (player) => {
            const own = player.muted;
            player.muted = true;
            await player.play();
            await new Promise((done) => { player.ontimeupdate = () => player.currentTime > 0 && done(); });
            return [player.tagName, own, player.videoWidth || 0, player.currentTime > 0];
        }))""",
        gesture=True,
    )
    assert played == [["VIDEO", False, 32, True], ["AUDIO", False, 0, True], ["VIDEO", True, 32, True]]
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1280, 1600])
def test_tables_are_whole_where_there_is_room(width: int, report: Path, comparison: Path, browser: Browser) -> None:
    for page in (report, comparison):
        browser.open(page, width=width)
        browser.run(UNFOLD)
        assert cut_tables(browser) == []


@pytest.mark.parametrize("width", [400, 1280])
def test_the_verdict_is_on_the_first_screen(width: int, report: Path, browser: Browser) -> None:
    browser.open(report, width=width, height=900)
    bottom = "document.querySelector({!r}).getBoundingClientRect().bottom"
    assert browser.run(bottom.format(".facts")) < 900
    assert browser.run(bottom.format(".tile .change")) < 900
    if width == 1280:
        assert browser.run("document.querySelector('.forest .plotcell').getBoundingClientRect().bottom") < 900


@pytest.mark.parametrize("dark", [False, True])
def test_a_report_needs_nothing_but_its_file(dark: bool, report: Path, browser: Browser) -> None:
    browser.open(report, dark=dark)
    assert browser.complaints() == []
    assert [address for address in browser.asked_for() if not address.startswith("data:")] == [
        report.resolve().as_uri()
    ]
