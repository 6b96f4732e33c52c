"""What a signature declares, what is refused, and in which words."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.methods import (
    REQUIRED,
    Count,
    MethodSpec,
    Range,
    get,
    merge_method,
    names,
    registered,
    registry,
    structures,
)
from evomerge.methods.parameters import Doc, PerModelWeight, one_per_model

SOURCE = "Nobody 2026, https://example.org"


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch):
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))


def example(
    base: Tensor,
    models: Annotated[Sequence[Tensor], Count(2, 4)],
    weight: Annotated[PerModelWeight, Doc("How much of each.")],
    steps: Annotated[int, Range(1, 10, valid_low=0), Doc("How often.")] = 3,
    lambda_: Annotated[float, Range(0.0, 2.0), Doc("How far.")] = 1.0,
    style: Annotated[Literal["plain", "fancy"], Doc("How.")] = "plain",
    loud: Annotated[bool, Doc("Whether to shout.")] = False,
) -> Tensor:
    """Do nothing of use."""
    del models, weight, steps, style, loud
    return base * lambda_


def test_everything_follows_from_the_signature():
    assert merge_method(reference=SOURCE)(example) is example
    method = get("example")
    assert isinstance(method, MethodSpec)
    assert (method.takes_base, method.min_models, method.max_models) == (True, 2, 4)
    assert not method.stochastic
    assert method.summary == "Do nothing of use."
    assert method.reference == SOURCE
    assert [parameter.name for parameter in method.parameters] == [
        "weight",
        "steps",
        "lambda",
        "style",
        "loud",
    ]
    weight, steps, lambda_, style, loud = method.parameters
    assert (weight.kind, weight.per_model, weight.default) == ("float", True, REQUIRED)
    assert (weight.low, weight.high, weight.valid_low, weight.valid_high) == (0.0, 1.0, None, None)
    assert weight.doc == "How much of each."
    assert (steps.kind, steps.default, steps.valid_low) == ("int", 3, 0)
    assert (lambda_.kind, lambda_.per_model, lambda_.high) == ("float", False, 2.0)
    assert (style.kind, style.choices) == ("choice", ("plain", "fancy"))
    assert (loud.kind, loud.choices) == ("bool", (False, True))


def test_a_parameter_reaches_its_argument_without_the_underscore():
    merge_method(reference=SOURCE)(example)
    merged = get("example").apply(
        torch.ones(2), [torch.ones(2)] * 2, {"weight": [1, 1], "lambda": 0.5}
    )
    assert merged.tolist() == [0.5, 0.5]


def test_values_come_back_in_their_canonical_type():
    merge_method(reference=SOURCE)(example)
    method = get("example")
    for name, value, expected in [
        ("weight", 1, 1.0),
        ("weight", np.float32(0.5), 0.5),
        ("weight", -7.5, -7.5),
        ("steps", 4.0, 4),
        ("loud", 1, True),
        ("loud", 0.0, False),
        ("style", "fancy", "fancy"),
    ]:
        checked = method.check(name, value)
        assert checked == expected
        assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", float("nan"), "example: weight must be a finite number, but got nan"),
        ("weight", True, "example: weight must be a finite number, but got true"),
        ("weight", None, "example: weight must be a finite number, but got null"),
        ("steps", 2.5, "example: steps must be a whole number of at least 0, but got 2.5"),
        ("steps", -1, "example: steps must be a whole number of at least 0, but got -1"),
        ("style", "odd", "example: style must be one of 'plain', 'fancy', but got 'odd'"),
        ("loud", 2, "example: loud must be true or false, but got 2"),
        ("loud", "true", "example: loud must be true or false, but got 'true'"),
        (
            "wieght",
            1.0,
            "example: unknown parameter 'wieght': did you mean 'weight'? "
            "known: lambda, loud, steps, style, weight",
        ),
    ],
)
def test_a_wrong_value_is_told_with_method_parameter_expected_and_got(name, value, message):
    merge_method(reference=SOURCE)(example)
    with pytest.raises(UserError) as caught:
        get("example").check(name, value)
    assert str(caught.value) == message


def test_a_number_outside_its_hard_limits_is_refused_by_name():
    with pytest.raises(UserError) as caught:
        get("ties").check("density", 1.7)
    assert str(caught.value) == "ties: density must be a number in [0, 1], but got 1.7"


def test_wrong_calls_name_what_is_missing():
    ones = torch.ones(2)
    calls = [
        ((ones, [ones], {}), "ties: missing parameter 'weight': a finite number for each model"),
        ((None, [ones], {"weight": 1.0}), "ties: expected a base model, but there is none"),
        (
            (ones, [], {"weight": []}),
            "ties: expected at least 1 model besides the base, but got 0",
        ),
        (
            (ones, [ones, ones], {"weight": [1.0]}),
            "ties: expected weight to have 2 values (one per model), but it had 1",
        ),
        (
            (ones, [torch.ones(3)], {"weight": [1.0]}),
            "ties: expected tensors of one shape, but got [(2,), (3,)]",
        ),
    ]
    for arguments, message in calls:
        with pytest.raises(UserError) as caught:
            get("ties").apply(*arguments)
        assert str(caught.value) == message
    with pytest.raises(UserError, match="slerp: expected exactly 1 model besides the base"):
        get("slerp").apply(ones, [ones, ones], {"t": 0.5})


def test_an_unknown_method_is_told_with_the_known():
    with pytest.raises(UserError, match="unknown method 'tise': did you mean 'ties'"):
        get("tise")


def test_one_number_goes_to_every_model_and_a_sequence_must_fit():
    assert one_per_model("weight", 0.5, 2) == [0.5, 0.5]
    assert one_per_model("weight", torch.tensor([0.5, 0.25]), 2) == [0.5, 0.25]
    with pytest.raises(UserError, match=r"expected weight to have 3 values \(one per model\)"):
        one_per_model("weight", [0.5, 0.25], 3)


def test_methods_are_listed_by_name():
    listed = [method.name for method in registered()]
    structures_listed = [method.name for method in structures()]
    assert listed == sorted(listed)
    assert sorted([*listed, *structures_listed]) == list(names())
    assert "moe" in structures_listed
    assert {"linear", "ties"} <= set(listed)


def test_a_name_is_taken_once_but_a_notebook_cell_may_run_again():
    merge_method(reference=SOURCE)(example)
    merge_method(reference=SOURCE)(example)

    def example_(models: Sequence[Tensor]) -> Tensor:
        """Another of the same name."""
        return models[0]

    with pytest.raises(ValueError, match="merge method 'example' is already registered"):
        merge_method(reference=SOURCE)(example_)


def no_docstring(models: Sequence[Tensor]) -> Tensor:
    return models[0]


def no_models(base: Tensor) -> Tensor:
    """Has no models."""
    return base


def no_range(models: Sequence[Tensor], x: Annotated[float, Doc("Some number.")]) -> Tensor:
    """Has no range."""
    return models[0] * x


def no_description(models: Sequence[Tensor], x: bool) -> Tensor:
    """Says nothing of x."""
    return models[0] * x


def no_annotation(models: Sequence[Tensor], x=False) -> Tensor:
    """Does not say the type of x."""
    return models[0] * x


def odd_type(models: Sequence[Tensor], x: Annotated[str, Doc("Some words.")]) -> Tensor:
    """Takes words."""
    return models[0] * len(x)


def any_names(models: Sequence[Tensor], **x: Annotated[bool, Doc("Whatever.")]) -> Tensor:
    """Takes anything."""
    return models[0] * len(x)


def bad_default(
    models: Sequence[Tensor],
    x: Annotated[float, Range(0, 1, valid_high=1.0), Doc("Some number.")] = 2.0,
) -> Tensor:
    """Starts outside its limits."""
    return models[0] * x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "needs a docstring and a reference"),
        (no_models, "needs an argument 'models'"),
        (no_range, "'x' needs exactly one Range"),
        (no_description, "'x' needs a description"),
        (no_annotation, "'x' needs an annotation"),
        (odd_type, "'x' must be annotated as float, int, bool"),
        (any_names, "'x' must be a named argument"),
        (bad_default, "x must be a number of at most 1, but got 2.0"),
    ],
)
def test_a_signature_that_says_too_little_is_refused_at_registration(function, message):
    with pytest.raises((TypeError, ValueError), match=message):
        merge_method(reference=SOURCE)(function)
    assert function.__name__ not in [method.name for method in registered()]


@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_runs_from_low_to_high(ends):
    with pytest.raises(ValueError, match="`low <= high` must hold"):
        Range(*ends)


def test_a_search_range_lies_within_the_valid_range():
    with pytest.raises(ValueError, match="within the valid range"):
        Range(0.0, 2.0, valid_low=0.0, valid_high=1.0)
