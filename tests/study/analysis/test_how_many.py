"""How many parents are worth merging: planted curves, effects by hand, cosines by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.cli.parents import curve_lines, diversity_lines
from evomerge.study.analysis.diversity import cosines
from evomerge.study.analysis.how_many import PER_SIZE, curve, subsets
from tests.models import make_family

NAMES = [f"m{i}" for i in range(6)]


def planted(limit: float, a: float, b: float) -> dict[tuple[str, ...], float]:
    sizes = [*combinations(NAMES, 1), *combinations(NAMES, 2), *subsets(NAMES, 0)]
    return {subset: limit - a / (len(subset) + b) for subset in sizes}


def test_a_planted_curve_is_found_again() -> None:
    fitted = curve(planted(0.9, 0.3, 0.5))
    assert fitted is not None
    assert (fitted.limit, fitted.a, fitted.b) == pytest.approx((0.9, 0.3, 0.5), abs=1e-6)
    # of 1/1.5 - 1/6.5 = .513 nine tenths are .462, which 1/1.5 - 1/(k + .5) reaches at k = 4.4
    assert fitted.enough == 5
    (_, line) = curve_lines(fitted)
    assert "fit 0.900 - 0.300 / (k + 0.5): 5 of 6 have nine tenths" in line


def test_scores_that_do_not_rise_have_no_limit_and_say_so() -> None:
    scores = {subset: 0.5 - 0.02 * len(subset) for subset in planted(1, 1, 1)}
    fitted = curve(scores)
    assert fitted is not None
    assert fitted.limit is None
    assert "score no higher" in curve_lines(fitted)[1]


def test_scores_in_a_straight_line_have_no_end_yet() -> None:
    """As on the demo's zoo, where each expert brings a skill of its own."""
    fitted = curve({subset: 0.12 + 0.12 * len(subset) for subset in planted(1, 1, 1)})
    assert fitted is not None
    assert fitted.enough == len(NAMES)
    assert "almost in a straight line" in curve_lines(fitted)[1]


def test_a_parent_that_lowers_averages_is_named() -> None:
    scores = {s: v - 0.2 * ("m3" in s) for s, v in planted(0.9, 0.3, 0.0).items()}
    fitted = curve(scores)
    assert fitted is not None
    assert next(iter(fitted.effects)) == "m3"
    assert fitted.effects["m3"] < -0.1
    assert "m3" in curve_lines(fitted)[-1]


def test_few_averages_of_each_size_are_drawn_and_the_same_again() -> None:
    drawn = subsets(NAMES, 3)
    assert drawn == subsets(NAMES, 3) != subsets(NAMES, 4)
    assert drawn[-1] == tuple(NAMES)
    assert all(len(set(subset)) == len(subset) >= 3 for subset in drawn)
    assert max(sum(len(s) == k for s in drawn) for k in range(3, 7)) == PER_SIZE
    assert len(subsets([f"m{i}" for i in range(100)], 0)) <= 6 * PER_SIZE
    assert subsets(NAMES[:2], 0) == []
    assert curve({("a",): 0.1, ("b",): 0.2, ("a", "b"): 0.3}) is None


def test_cosines_of_deltas_are_those_of_the_whole_vectors(tmp_path: Path) -> None:
    family = make_family(tmp_path, names=("a", "b", "c"))
    base = load_file(Path(family["base"]) / "model.safetensors")
    flat = {}
    for name in "abc":
        tensors = load_file(Path(family[name]) / "model.safetensors")
        if name == "c":  # the opposite of a
            tensors = {k: 2 * base[k] - flat["a", k] for k in base}
            save_file(tensors, Path(family[name]) / "model.safetensors", metadata={"format": "pt"})
        flat |= {(name, k): tensors[k] for k in base}
    vectors = {
        n: torch.cat([(flat[n, k] - base[k]).double().flatten() for k in base]) for n in "abc"
    }
    measured = cosines(family["base"], [family[n] for n in "abc"])
    expected = float(torch.nn.functional.cosine_similarity(vectors["a"], vectors["b"], dim=0))
    assert measured[family["a"], family["b"]] == pytest.approx(expected, abs=1e-6)
    assert measured[family["a"], family["c"]] == pytest.approx(-1.0, abs=1e-5)
    assert cosines(family["base"], [family["base"], family["a"]]) == {
        (family["base"], family["a"]): 0.0
    }


def test_diversity_is_told_in_words() -> None:
    complement = {"pairs": [{"a": "a", "b": "b", "oracle": 0.9, "discordance": 0.4}]}
    pairs = [{"a": "a", "b": "b", "barrier": -0.05}]
    lines = diversity_lines({("a", "b"): 0.12}, complement, pairs)
    assert lines[1] == "  a + b: +0.120, 40 %, +0.050"
    assert diversity_lines({}, complement, pairs) == []
