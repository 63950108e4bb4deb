"""The example clips of a run report: a fixed rule, and the sentence about it on the page."""

import pytest

from mosear.evaluation.report import Example
from mosear.evaluation.report.choice import choose_examples, reason
from tests.helpers.report_pages import EVIL, Page, make_rows, render

SUBSETS = ("consistent", "video_aligned", "audio_aligned")


@pytest.mark.parametrize(("count", "wrong", "right"), [(3, 1, 0), (6, 1, 1), (9, 2, 1), (12, 2, 2)])
def test_half_of_each_subset_is_wrong_rounded_up(count, wrong, right):
    rows = {row.id: row for row in make_rows("tuned", 0.5)}
    chosen = [rows[name] for name in choose_examples(list(rows.values()), count)]
    for subset in SUBSETS:
        found = [row.correct for row in chosen if row.subset == subset]
        assert (found.count(False), found.count(True)) == (wrong, right)
        first = min(row.id for row in rows.values() if row.subset == subset and not row.correct)
        assert first in [row.id for row in chosen]


def test_where_one_kind_is_lacking_the_other_is_shown():
    rows = [row for row in make_rows("tuned", 1.0) if row.correct]
    assert len(choose_examples(rows, 6)) == 6
    assert len(choose_examples(rows, 2)) == 2 and choose_examples(rows, 0) == []


def test_the_page_says_why_these_clips_are_shown(tmp_path):
    systems = {"zero_shot": make_rows("zero_shot", 0.4)}
    examples = [Example.from_rows({"zero_shot": systems["zero_shot"][0]})]
    html, _ = render(tmp_path, systems, examples=examples, examples_note=reason(EVIL))
    assert "clips that <script>alert('x')</script>\"'& answered wrong" in Page(html).words
    assert "half (rounded up) are clips that zero-shot answered wrong" in reason("zero_shot")
    assert reason("tuned").count(".") == 1
