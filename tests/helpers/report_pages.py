"""Run reports of made-up answers, hostile text included, and a reader of their markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import write_report
from mosear.evaluation.summary import summarise

EVIL = "<script>alert('x')</script>\"'&"
LABELS = ["happy", EVIL, "sad"]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.stack = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def make_rows(model, accuracy, subsets=("consistent", "video_aligned", "audio_aligned"), *, readings=True, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for subset in subsets:
        for i in range(40):
            hit = rng.random() < accuracy
            unread = i == 0
            readings_of = {f"p_{name}": rng.dirichlet(np.ones(3)) for name in ("visual", "audio", "text")}
            rows.append(
                PredictionRow(
                    id=f"{subset}{EVIL}{i}",
                    subset=subset,
                    label=LABELS[i % 3],
                    prediction=None if unread else LABELS[(i if hit else i + 1) % 3],
                    unparsed_reason=EVIL if unread else None,
                    benchmark=EVIL,
                    model=model,
                    distribution=rng.dirichlet(np.ones(3)).tolist(),
                    text=EVIL,
                    **(readings_of if readings else {}),
                )
            )
    return rows


def render(tmp_path, systems, **options):
    labels = options.pop("labels", LABELS)
    summaries = {
        name: summarise(rows, labels, benchmark=EVIL, steering=EVIL, seed=0, n_boot=200)
        for name, rows in systems.items()
    }
    for name, more in options.pop("extra", {}).items():
        summaries[name] |= more
    path = tmp_path / "report.html"
    arguments = {"title": EVIL, "run_info": {EVIL: EVIL, "config": {"data": {EVIL: EVIL, "sizes": [1, 2]}}}}
    write_report(path, summaries=summaries, predictions=systems, labels=labels, **(arguments | options))
    assert list(tmp_path.iterdir()) == [path]
    return path.read_text(encoding="utf-8"), summaries
