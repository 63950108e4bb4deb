import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import Example, LineChart, write_report
from mosear.evaluation.summary import summarise
from tests.helpers.report_pages import EVIL, LABELS, Page, make_rows, render


def image(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 4), "navy").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def full(tmp_path):
    systems = {"zero_shot": make_rows("zero_shot", 0.4), "tuned": make_rows("tuned", 0.9, seed=1)}
    examples = [
        Example.from_rows({name: rows[i] for name, rows in systems.items()}, image=data)
        for i, data in ((0, image()), (50, image("JPEG")), (90, None))
    ]
    charts = [LineChart(title=EVIL, series={EVIL: [(0, 1.0), (1, float("nan")), (2, 0.2)]}, caption=EVIL)]
    html, summaries = render(tmp_path, systems, examples=examples, charts=charts)
    return html, summaries, Page(html)


def test_nothing_from_data_becomes_markup(full):
    html, _, page = full
    assert "script" not in page.tags
    assert "<script" not in html.lower()
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert EVIL in page.words  # shown as text, not dropped


def test_one_file_without_outside_resources(full):
    html, _, page = full
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    inside = {f"#{value}" for _, name, value in page.attributes if name == "id"}
    assert sources and all(value.startswith("data:image/") or value in inside for value in sources)
    assert not re.search(r"url\(|@import|https?://", html)
    assert "link" not in page.tags


def test_images_are_embedded_unchanged(full):
    sources = [value for tag, name, value in full[2].attributes if (tag, name) == ("img", "src")]
    assert [value.split(",")[0] for value in sources] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert base64.b64decode(sources[0].split(",")[1]) == image()


def test_every_number_of_the_summaries_is_shown(full):
    _, summaries, page = full
    for summary in summaries.values():
        for score in summary["subsets"].values():
            for name in ("accuracy", "weighted_f1", "macro_f1", "uar", "war"):
                assert f"{100 * score[name]:.1f}" in page.words
        assert f"{100 * summary['conflict_mean']:.1f}" in page.words
        assert f"{100 * summary['gap']:.1f}" in page.words
    for control in summaries["tuned"]["controls"].values():
        assert f"{100 * control['conflict_mean']:.1f}" in page.words
    for words in ("late fusion + transcript", "How to read this", "About this run", "data.sizes", "1, 2", "unparsed"):
        assert words in page.words


def test_graphics_have_accessible_names(full):
    page = full[2]
    images = sum(1 for tag, name, value in page.attributes if (tag, name, value) == ("svg", "role", "img"))
    hidden = sum(1 for tag, name, _ in page.attributes if (tag, name) == ("svg", "aria-hidden"))
    assert images + hidden == page.tags.count("svg")
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == images and all(labels)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.2, 0.95, "tuned is better than"), (0.95, 0.2, "tuned is worse than"), (0.6, 0.6, "is not clearly different")],
)
def test_the_verdict_follows_the_paired_interval(tmp_path, before, after, words):
    systems = {"zero_shot": make_rows("zero_shot", before), "tuned": make_rows("tuned", after)}
    assert words in Page(render(tmp_path, systems)[0]).words


def test_one_system_without_conflicts_readings_or_examples(tmp_path):
    html, _ = render(tmp_path, {"anything": make_rows("tuned", 0.7, subsets=("other",), readings=False)}, run_info={})
    page = Page(html)
    assert "Difference:" not in page.words
    assert "Late fusion" in page.words  # explained, though not measured
    assert 'c-late_fusion"' not in html


def test_many_labels_and_three_systems(tmp_path):
    labels = [*LABELS, *(f"label {i}" for i in range(23))]
    systems = {name: make_rows(name, 0.5, readings=False) for name in ("zero_shot", "tuned", "tuned + ar")}
    for name, rows in systems.items():
        systems[name] = [PredictionRow(**(vars(row) | {"distribution": None})) for row in rows]
    example = Example(id="x", subset="s", label="label 22", distributions={"tuned": [1 / 26] * 26})
    page = Page(render(tmp_path, systems, labels=labels, examples=[example])[0])
    assert "Difference: tuned + ar minus zero-shot" in page.words
    assert "17 less likely labels not shown" in page.words


def test_user_errors(tmp_path):
    rows = make_rows("tuned", 0.7)
    arguments = {"title": "t", "run_info": {}, "labels": LABELS}
    with pytest.raises(ValueError, match="at least one summary"):
        write_report(tmp_path / "r.html", summaries={}, predictions={}, **arguments)
    summary = summarise(rows, LABELS, benchmark="b", steering="none", seed=0, n_boot=50)
    with pytest.raises(ValueError, match=r"\['tuned'\] have a summary but no prediction rows"):
        write_report(tmp_path / "r.html", summaries={"tuned": summary}, predictions={}, **arguments)
    for example, message in (
        (Example(id="a", subset="s", label="sad", image=b"<svg>"), "neither PNG nor JPEG"),
        (Example(id="a", subset="s", label="sad", readings={"audio": [1.0]}), "must have 3 values"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(
                tmp_path / "r.html",
                summaries={"tuned": summary},
                predictions={"tuned": rows},
                examples=[example],
                **arguments,
            )
    with pytest.raises(ValueError, match="an example is one clip"):
        Example.from_rows({"a": rows[0], "b": rows[1]})
    assert not list(tmp_path.iterdir())


def telemetry(layers=3, heads=4):
    rng = np.random.default_rng(0)
    before = rng.dirichlet(np.ones(3), (layers, heads))
    after = before * [0.5, 1.0, 1.0]
    return {
        "policy": {"ar": {}},
        "clips": 1234,
        "modalities": ["audio", "visual", "text"],
        "before": before.tolist(),
        "after": after.tolist(),
        "flagged": rng.random((layers, heads)).tolist(),
    }


def test_steering_is_drawn_before_and_after(tmp_path):
    rows = [
        replace(row, conflict=(i % 40) / 39, target=(None, "audio", "visual")[i % 3])
        for i, row in enumerate(make_rows("tuned", 0.5))
    ]
    rows += [replace(row, id=f"other{row.id}", subset=EVIL) for row in rows[:40]]
    measured = telemetry()
    html, _ = render(tmp_path, {"tuned": rows}, extra={"tuned": {"steering_telemetry": measured}})
    page = Page(html)
    assert "script" not in page.tags
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    for when in ("before", "after"):
        for index, word in ((0, "voice"), (1, "face")):
            mean = 100 * np.mean(np.array(measured[when])[..., index])
            shown = f"attention mass on the {word} by layer and head, {when} steering; mean {mean:.1f} %"
            assert any(label.endswith(shown) for label in labels)
    assert f"layer 2, head 3: {100 * measured['after'][2][3][0]:.1f} %" in page.words
    assert "1,234 clips with both" in page.words
    histograms = [label for label in labels if "clips by conflict score" in label]
    assert len(histograms) == 4 and EVIL in histograms[-1]
    steered = sum(row.target is not None for row in rows[:40]) / 40
    assert f"{100 * steered:.1f} % steered" in page.words
    # Every clip is in one bar: the counts in the hints add up.
    counts = [int(n) for n in re.findall(r"\d\.\d\d to \d\.\d\d: (\d+)", page.words)]
    assert sum(counts) == len(rows)


@pytest.mark.parametrize("measured", [{}, {"policy": "mine"}, telemetry(28, 28)], ids=["none", "empty", "large"])
def test_steering_section_appears_with_its_numbers(tmp_path, measured):
    rows = make_rows("tuned", 0.5, readings=False)
    html, _ = render(tmp_path, {"tuned": rows}, extra={"tuned": {"steering_telemetry": measured}})
    page = Page(html)
    assert ("heatmap" in html.split("</style>")[1]) == ('id="steering"' in html) == ("clips" in measured)
    assert "conflict score" not in page.words.lower()


def test_a_distribution_that_is_not_finite_is_not_drawn(tmp_path):
    """Files that earlier versions wrote may hold one."""
    odd = replace(make_rows("tuned", 0.9)[3], distribution=[float("nan")] * 3, p_audio=[float("nan")] * 3)
    html, _ = render(tmp_path, {"tuned": make_rows("tuned", 0.9)}, examples=[Example.from_rows({"tuned": odd})])
    assert "nan%" not in html and "nan %" not in html


def test_quarantined_clips_are_named_apart(tmp_path):
    rows = make_rows("tuned", 0.9)
    rows[0] = replace(rows[0], unparsed_reason="bad media: truncated")
    html, _ = render(tmp_path, {"tuned": rows})
    unread = sum(row.prediction is None for row in rows) - 1
    assert f"{unread} of {len(rows) - 1} answers could not be read" in html
    assert f"1 of {len(rows)} clips could not be used (quarantined)" in html and "+ 1 quarantined" in html


def test_files_beside_the_report_are_linked_and_no_others(tmp_path):
    files = {"clips <that> failed": tmp_path / "bad clips.jsonl", "elsewhere": tmp_path.parent / "x.jsonl"}
    html, _ = render(tmp_path, {"tuned": make_rows("tuned", 0.9)}, files=files)
    assert '<li>Clips &lt;that&gt; failed: <a href="bad%20clips.jsonl">bad%20clips.jsonl</a></li>' in html
    assert "x.jsonl" not in html
