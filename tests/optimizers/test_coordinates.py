"""Unit coordinates: worked by hand, and there and back again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.space.dimension import Dimension

CHOICES = ("ties", "dare", "slerp", "linear")
MIXED = (
    Dimension("weight", low=-1.0, high=3.0),
    Dimension("rate", low=1e-4, high=1.0, log=True),
    Dimension("layers", "int", 1, 5),
    Dimension("fixed", "int", 7, 7),
    Dimension("method", "categorical", choices=CHOICES),
    Dimension("only", "categorical", choices=("x",)),
)


def test_a_point_is_encoded_as_worked_by_hand():
    # (0 + 1) / 4; half of four decades; third of five cells; second of four cells
    units = Coordinates(MIXED).encode((0.0, 1e-2, 3, 7, "dare", "x"))
    assert units.tolist() == pytest.approx([0.25, 0.5, 0.5, 0.375])


def test_dimensions_with_one_value_have_no_coordinate_and_come_back():
    coordinates = Coordinates(MIXED)
    assert len(coordinates) == 4
    assert coordinates.cells == (0, 0, 5, 4)
    assert coordinates.decode([0.25, 0.5, 0.5, 0.375]) == (0.0, 0.01, 3, 7, "dare", "x")


def test_points_outside_the_cube_are_clipped_into_it():
    coordinates = Coordinates(MIXED)
    assert coordinates.decode([-9.0, -1e-9, -1.0, -0.5]) == (-1.0, 1e-4, 1, 7, "ties", "x")
    assert coordinates.decode([9.0, 1.001, 1.0, 1.0]) == (3.0, 1.0, 5, 7, "linear", "x")


def test_every_value_of_an_integer_or_a_choice_has_an_equal_cell():
    coordinates = Coordinates([MIXED[2], MIXED[4]])
    drawn = [coordinates.decode([(i + 0.5) / 1000] * 2) for i in range(1000)]
    assert [sum(point[0] == n for point in drawn) for n in range(1, 6)] == [200] * 5
    assert [sum(point[1] == choice for point in drawn) for choice in CHOICES] == [250] * 4


def test_the_middles_of_cells_decode_to_every_value_in_order():
    for dimension in (Dimension("n", "int", 1, 64, log=True), MIXED[2]):
        coordinates = Coordinates([dimension])
        values = [coordinates.decode([unit])[0] for unit in coordinates.midpoints(0)]
        assert values == list(range(1, int(dimension.high) + 1))


def test_true_and_one_are_different_choices():
    coordinates = Coordinates([Dimension("c", "categorical", choices=(1, True, 1.0))])
    for choice in (1, True, 1.0):
        assert repr(coordinates.decode(coordinates.encode((choice,)))) == repr((choice,))


def test_floats_keep_six_digits_of_their_range():
    coordinates = Coordinates([Dimension("a"), Dimension("b", low=100.0, high=350.0)])
    assert coordinates.decode([1 / 3, 1 / 3]) == (0.333333, 183.3333)


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    share=st.floats(0, 1),
    log=st.booleans(),
)
def test_any_float_comes_back_to_six_digits(low, width, share, log):
    low = abs(low) + 1e-6 if log else low
    dimension = Dimension("a", low=low, high=low + width, log=log)
    coordinates = Coordinates([dimension])
    value = min(low + share * width, dimension.high)
    (back,) = coordinates.decode(coordinates.encode((value,)))
    assert dimension.contains(back)
    assert math.isclose(back, value, rel_tol=1e-5 if log else 0, abs_tol=0 if log else 2e-6 * width)
