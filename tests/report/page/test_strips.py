import pytest

from evomerge.report.findings.dimensions import dimensions
from evomerge.report.page.strips import section
from evomerge.report.run import Run
from tests.report import report_bench as bench

POINTS = {4: [0.1, 0.9], 6: [0.5, 0.5], 7: [0.2, 0.1]}  # 5 failed; gains +0.025 +0.275 +0.05


def run_with(tmp_path, points, dimension=None):
    """The bench's run with other points, and perhaps another first dimension."""
    events = bench.events()
    for event in events:
        if event["event"] == "study" and dimension is not None:
            event["dimensions"] = [dimension, bench.DIMENSIONS[1]]
        for trial in event["trials"] if event["event"] == "asked" else []:
            if trial["kind"] == "trial":
                trial["point"] = points.get(trial["trial"], next(iter(points.values())))
    return Run.read(bench.write(tmp_path / "run", events))


def test_a_strip_has_the_best_trials_and_the_others_at_their_places(tmp_path):
    found = dimensions(run_with(tmp_path, POINTS))
    assert (found.trials, found.n_best, found.measure) == (3, 2, "apart")
    by_name = {strip.dimension.name: strip for strip in found.strips}
    first = by_name["models[left].weight[0]"]
    assert first.best == [0.5, 0.2]  # trial 6, then trial 7; the range is 0 to 1
    assert first.others == [0.1]
    assert (first.start, first.chosen) == (0.5, 0.5)  # no initial: the middle; trial 6
    # means of the best and the others: .35 and .1 apart by .25; .3 and .9 apart by .6
    assert [s.share for s in found.strips] == pytest.approx([0.6, 0.25])


def test_a_choice_has_its_count_and_mean_gain_and_no_correlation(tmp_path):
    choices = ["ties", "slerp", "ram"]
    choice = {"name": "merge_method", **bench.RANGE, "kind": "categorical", "choices": choices}
    points = {4: ["ties", 0.9], 6: ["slerp", 0.5], 7: ["ties", 0.1]}
    run = run_with(tmp_path, points, choice)
    [table] = section(run)["choices"]
    # ties: gains .025 and .05, mean .0375, standard deviation .01768, error .0125
    assert table["rows"] == [
        {"value": "ties", "count": "2", "best": "1 of 2", "gain": "+0.038 ± 0.013"},
        {"value": "slerp", "count": "1", "best": "1 of 2", "gain": "+0.275"},
        {"value": "ram", "count": "0", "best": "0 of 2", "gain": "–"},
    ]


def test_few_trials_claim_no_importance_and_a_run_that_has_hardly_begun_shows_nothing(tmp_path):
    result = section(run_with(tmp_path, POINTS))
    assert "Nothing can be said of importance" in result["measure"]
    assert result["groups"] is None
    assert section(Run.read(bench.write(tmp_path / "new", bench.events()[:5]))) == {}


def test_the_fall_of_the_loss_is_shared_out_by_gradient_times_step(tmp_path):
    # x goes 0, 1, 2, 3 along the first dimension and stays along the second; the loss' derivative
    # there is -4, -2, -2, 0: by the trapezoid rule it falls by 3 + 2 + 1 = 6, all by the first.
    events = bench.events()[:2]
    wide = {**bench.RANGE, "high": 4.0}
    events[1]["dimensions"] = [{"name": n, **wide} for n in ("a", "b")]
    for step, slope in enumerate((-4.0, -2.0, -2.0, 0.0)):
        asked = bench.asked([4], step, bench.SEARCH)
        asked["trials"][0] |= {"trial": step, "point": [float(step), 1.0], "digest": f"s{step}"}
        told = {
            **bench.told_event(step, [step], [0.5], 0.4),
            "gradients": [[slope, -9.0]],
        }
        del told["reference"]
        events += [asked, told]
    found = dimensions(Run.read(bench.write(tmp_path / "run", events)))
    assert found.measure == "path"
    assert {s.dimension.name: s.share for s in found.strips} == pytest.approx({"a": 1.0, "b": 0.0})
