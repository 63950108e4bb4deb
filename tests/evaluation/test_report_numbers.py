"""A number that is not defined is a dash on the pages, never ``nan``, and does not distort what stands beside it."""

import json
import math
import re
from dataclasses import replace

import pytest

from mosear.evaluation.compare import compare
from mosear.evaluation.report import Example, LineChart
from tests.helpers.comparison_runs import write_run
from tests.helpers.report_pages import LABELS, Page, make_rows, render

NAN = math.nan
UNDEFINED = re.compile(r"\bnan\b", re.IGNORECASE)
PLAIN = ["happy", "angry", "sad"]


def plain(rows):
    """The same rows without hostile text, in which a word might look like a number that is not there."""
    names = dict(zip(LABELS, PLAIN, strict=True))
    return [
        replace(
            row,
            id=f"clip {i}",
            label=names[row.label],
            prediction=names.get(row.prediction),
            benchmark="synthetic",
            text="I am fine.",
            unparsed_reason="empty",
        )
        for i, row in enumerate(rows)
    ]


def undefined_contribution():
    three = ("visual", "audio", "text")
    scores = {
        "none": 0.3,
        "all": 0.3,
        "shapley": dict.fromkeys(three, 0.0),
        "interval": {key: [0.0, 0.0] for key in three},
        "shares": dict.fromkeys(three, NAN),
        "share_interval": None,
        "verdict": None,
    }
    return {"collapse_threshold": 0.167, "subsets": {"consistent": {"n": 3, "accuracy": scores, "log_prob": scores}}}


def shown(html):
    """Text and attributes of a page, without its style."""
    page = Page(re.sub(r"<style>.*?</style>", "", html, flags=re.S))
    return [*page.text, *(value for tag, _, value in page.attributes if tag not in ("meta", "a") and value)]


def check(html):
    bad = [text for text in shown(html) if UNDEFINED.search(text)]
    assert not bad, bad[:5]


def test_a_run_report_holds_no_undefined_number(tmp_path):
    systems = {
        "zero_shot": plain(make_rows("zero_shot", 0.4)),
        "tuned": [replace(row, prediction=None) for row in plain(make_rows("tuned", 0.4))],  # nothing could be read
    }
    extra = {
        "contribution": undefined_contribution(),
        "benchmark_metrics": {"ccc": {"overall": {"valence": NAN, "n": 0}}},
    }
    example = Example(
        id="x",
        subset="consistent",
        label="sad",
        predictions={"tuned": "sad"},
        distributions={"zero_shot": [NAN] * 3, "tuned": [0.2, 0.3, 0.5]},
        readings={"visual": [NAN] * 3, "audio": [0.1, 0.1, 0.8]},
    )
    html, _ = render(
        tmp_path,
        systems,
        labels=PLAIN,
        title="run",
        run_info={"clips_per_second": NAN, "config": {"rate": NAN, "list": [1.0, NAN]}},
        extra={"tuned": extra, "zero_shot": {"benchmark": "synthetic", "steering": "none"}},
        charts=[LineChart(title="loss", series={"all": [(0, NAN)], "some": [(0, NAN), (1, 1.0)]})],
        examples=[example],
    )
    check(html)


def test_a_comparison_holds_no_undefined_number(tmp_path):
    write_run(tmp_path / "runs" / "0", model="zero_shot", readings=False)
    extra = {"contribution": undefined_contribution()}
    write_run(tmp_path / "runs" / "1", steering="chase", extra=extra, accuracy=1.0)
    compare([tmp_path / "runs"], tmp_path / "page.html", clips=3, n_boot=50)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = re.search(r'id="clip-data">(.*?)</script>', html, re.S)[1]
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    check(re.sub(r"<script.*?</script>", "", html, flags=re.S))
