import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.report.charts.heat_map import Band, heat_map
from evomerge.report.charts.intervals import Gap, differences
from evomerge.report.charts.svg import Figure, fit, scale, text_width, ticks

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_a_scale_holds_every_value_between_its_pixels(values):
    at = scale(values, 100, 300)
    assert all(100 - 1e-6 <= at(value) <= 300 + 1e-6 for value in values)


@given(st.lists(numbers, min_size=2, max_size=8))
def test_a_scales_ends_have_tick_marks_and_no_two_labels_are_equal(values):
    at = scale(values, 0, 100)
    marks = ticks(at.low, at.high)
    assert 2 <= len(marks) <= 12
    assert len({label for _, label in marks}) == len(marks)
    assert marks[0][0] == pytest.approx(at.low, abs=1e-6 * (at.high - at.low))
    assert marks[-1][0] == pytest.approx(at.high, abs=1e-6 * (at.high - at.low))


def test_a_fitted_text_fits_and_keeps_the_whole_as_a_tip():
    name = "日本語のとても長いモデルの名前-7B"
    assert text_width(fit(name, 80)) <= 80
    figure = Figure(100, 20, "a name")
    figure.text(0, 10, name, room=80)
    assert f"<title>{name}</title>" in figure.markup()


def test_text_and_labels_are_escaped():
    figure = Figure(10, 10, '"><script>')
    figure.text(0, 0, "<b> & 'c'")
    figure.dot(1, 1, "f1", "<i>")
    assert "<b>" not in figure.markup()
    assert "<i>" not in figure.markup()
    assert '"><script>' not in figure.markup()


@pytest.mark.parametrize("layers", [1, 6, 32, 80, 200])
def test_layer_numbers_under_a_heat_map_do_not_touch(layers):
    bands = [Band("outside", outside=True), *(Band(str(i)) for i in range(layers))]
    values = [[0.1 * j for j in range(len(bands))]]
    drawing = str(heat_map(["a"], bands, values, (0.0, 30.0), "weights"))
    marks = re.findall(r'<text class="tick" x="([\d.]+)" [^>]*>(\d+)</text>', drawing)
    under = [(float(x), text) for x, text in marks if text != "30"]
    for (x, text), (after, following) in itertools.pairwise(under):
        if after > x:  # the colour key starts again at the left
            assert x + text_width(text) / 2 < after - text_width(following) / 2
    right = max(float(x) for x in re.findall(r'<rect class="cell p" x="([\d.]+)"', drawing))
    assert right < 1000


def test_an_interval_is_drawn_from_its_low_to_its_high_end():
    drawing = str(differences([Gap("a", 0.5, 0.0, 1.0)], "a − b", "difference"))
    ends = re.search(r'<line class="whisker s5" x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', drawing)
    dot = re.search(r'<rect class="f5 at" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawing)
    middle = float(dot[1]) + float(dot[2]) / 2
    assert middle == pytest.approx((float(ends[1]) + float(ends[2])) / 2, abs=0.2)
