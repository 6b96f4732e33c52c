"""Plots draw the report's numbers; matplotlib's own objects say what is drawn."""

import importlib

import matplotlib as mpl
import pytest

import evomerge as em
from evomerge.core.errors import UserError
from tests.report import report_bench as bench
from tests.report.page.test_browser import several_objectives

mpl.use("agg")
mpl.rcParams["figure.max_open_warning"] = 0


@pytest.fixture
def run(tmp_path):
    return bench.write(tmp_path / "run", several_objectives())


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_convergence_draws_best_and_median_gains(run):
    lines = {line.get_label(): line.get_ydata() for line in em.plot.convergence(run).lines}
    # generation 0: trial 4 .625 against .6 (5 failed); 1: trial 6 .875 (7 is random)
    assert lines["best of the generation"] == pytest.approx([0.025, 0.275])
    assert lines["median"] == pytest.approx([0.025, 0.275])


def test_held_out_draws_the_verdicts_interval(run):
    ax = em.plot.heldout(run)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["uniform average"]
    assert texts(ax) == ["+0.312 [+0.032, +0.765]"]
    assert list(ax.lines[0].get_xdata()) == [0.0321, 0.7654]
    assert len(em.plot.heldout(run, models=True).get_yticklabels()) == 4


def test_coefficients_are_the_recipes_values_by_layer(run):
    ax = em.plot.coefficients(run)
    # left: a gradient .25 to .75 over three layers; right: trial 6's .6
    assert ax.images[0].get_array().tolist() == [[0.25, 0.5, 0.75], [0.6, 0.6, 0.6]]
    with pytest.raises(UserError, match="gives no model the parameter 'density'"):
        em.plot.coefficients(run, parameter="density")
    with pytest.raises(UserError, match="expected one of attention, mlp, norm"):
        em.plot.coefficients(run, component="attn")


def test_the_front_is_numbered(run):
    assert texts(em.plot.pareto(run)) == ["1", "2"]


def test_a_path_has_a_line_for_each_dimension(run):
    assert len(em.plot.path(run).lines) == 2


def test_what_cannot_be_drawn_is_said_in_a_line(run, tmp_path):
    begun = bench.write(tmp_path / "begun", bench.events()[:5])
    for draw in (em.plot.convergence, em.plot.heldout, em.plot.importance, em.plot.path):
        with pytest.raises(UserError):
            draw(begun)
    with pytest.raises(UserError, match="one objective"):
        em.plot.pareto(bench.write(tmp_path / "one"))
    with pytest.raises(UserError, match="too few trials"):
        em.plot.importance(run)


def test_without_matplotlib_the_package_is_named(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"plots need the package matplotlib: .*evomerge\[plot\]"):
        em.plot.convergence(run)
    assert importlib.import_module("evomerge.report.plot")
