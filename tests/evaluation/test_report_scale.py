"""Axes of the pages: 1, 2 or 5 times a power of ten, and nothing drawn outside of them."""

import math
import re

import pytest

from mosear.evaluation.report import svg
from mosear.evaluation.report.scale import SHARES, Scale, around_zero, enclosing, from_zero, nice_step
from tests.helpers.report_pages import make_rows, render


def step_of(scale: Scale) -> float:
    steps = [b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    return steps[0]


def is_nice(step: float) -> bool:
    digit = step / 10 ** math.floor(math.log10(step) + 1e-9)
    return any(digit == pytest.approx(nice) for nice in (1, 2, 5))


@pytest.mark.parametrize("largest", [0.003, 0.01, 0.07, 0.11, 0.333, 0.36, 0.667, 0.72, 0.84, 1.0, 3.0, 7.2, 360.0])
@pytest.mark.parametrize("scale_of", [around_zero, from_zero])
def test_every_tick_is_a_multiple_of_1_2_or_5(scale_of, largest):
    scale = scale_of(largest)
    assert is_nice(step_of(scale)) and len(scale.ticks) <= 7
    assert scale.ticks[-1] >= largest * (1 - 1e-9) and 0.0 in scale.ticks
    assert scale.ticks[0] == (-scale.ticks[-1] if scale_of is around_zero else 0)
    assert (scale.at(scale.ticks[0]), scale.at(scale.ticks[-1])) == (0, 1)


@pytest.mark.parametrize(("least", "step"), [(0, 1), (3, 5), (4, 5), (5, 5), (7.2, 10), (0.11, 0.2), (100, 100)])
def test_nice_step(least, step):
    assert nice_step(least) == pytest.approx(step)


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [0.31, 0.34], [-3.0, 12.0], [0, 1, 2, 700]])
def test_a_chart_encloses_its_values(values):
    scale = enclosing(values)
    assert is_nice(step_of(scale)) and all(0 <= scale.at(value) <= 1 for value in values)
    assert len(scale.ticks) <= 8


def test_the_labels_of_an_axis():
    def words(axis):
        return re.findall(r">([^<]+)</text>", str(axis))

    assert words(svg.points_axis(around_zero(0.72))) == ["−100", "−50", "0", "+50", "+100"]
    assert words(svg.points_axis(around_zero(0.36))) == ["−40", "−20", "0", "+20", "+40"]
    assert words(svg.points_axis(around_zero(0.012))) == ["−1.5", "−1", "−0.5", "0", "+0.5", "+1", "+1.5"]
    assert words(svg.share_axis()) == ["0 %", "20", "40", "60", "80", "100 %"] and len(SHARES.ticks) == 6
    assert words(svg.axis(from_zero(1.0), lambda value: f"<{value:g}>"))[1] == "&lt;0.2&gt;"


def test_equal_systems_still_have_an_axis(tmp_path):
    html, _ = render(tmp_path, {"zero_shot": make_rows("zero_shot", 0.6), "tuned": make_rows("tuned", 0.6)})
    assert "−1.0 to" not in html and re.search(r">−1</text>.*>0</text>.*>\+1</text>", html)


def test_a_single_point_of_a_chart_is_a_dot():
    plot = str(svg.line_chart({"a": [(5, 0.4)], "b": [(0, 1.0), (5, 0.5)]}, {"a": "s1", "b": "s2"}, label="loss"))
    assert plot.count("<circle") == 1 and plot.count("<polyline") == 1


@pytest.mark.parametrize("names", [["frustrated", "WMWMWMWMWM"], ["a", "b"], ["LONG NAMES OF LABELS", "x"]])
def test_a_confusion_matrix_has_room_for_its_names(names):
    from PIL import ImageFont

    plot = str(svg.confusion([[1, 0, 0], [0, 1, 0]], names, label="matrix"))
    font = ImageFont.load_default(11.5)
    rows = re.findall(r'class="tick end" font-size="11.5" x="(\d+)" y="[\d.]+">([^<]*)<', plot)
    assert [len(name) <= 10 for _, name in rows] == [True, True]
    assert all(font.getlength(name) <= int(x) for x, name in rows)
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', plot).groups())
    for x, y, name in re.findall(r'translate\(([\d.]+) (\d+)\) rotate\(-45\)">([^<]*)<', plot):
        reach = font.getlength(name) * math.sqrt(0.5)
        assert float(x) + reach <= width and float(y) - reach >= 0 and height > 0
