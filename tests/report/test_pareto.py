from evomerge.report.page import page
from evomerge.report.pareto import section
from evomerge.report.run import Run
from tests.report import report_bench as bench


def run_with(tmp_path, objectives):
    events = [
        {**e, "objectives": objectives[e["generation"]]} if e["event"] == "told" else e
        for e in bench.events()
    ]
    return Run.read(bench.write(tmp_path / "run", events))


def test_the_front_is_what_no_other_trial_beats(tmp_path):
    # trial 4 is beaten by 6 on both; 6 and 7 trade off; 5 failed
    told = section(run_with(tmp_path, [[[0.1, 0.0], None], [[0.2, 0.1], [-0.1, 0.3]]]))
    assert (told["front"], told["of"], told["pairs"]) == (2, 3, 1)
    assert told["table"] == [
        {"name": "trial 6", "cells": ["+0.200", "+0.100"]},
        {"name": "trial 7", "cells": ["−0.100", "+0.300"]},
    ]
    [figure] = told["figures"]
    assert figure.count("<rect") == 3  # the two of the front, and the legend's
    assert "gain on quiz" in figure
    assert "gain on text" in figure


def test_the_page_shows_it_only_where_there_are_several_objectives(tmp_path):
    shown = page(run_with(tmp_path / "two", [[[0.1, 0.0], None], [[0.2, 0.1], [-0.1, 0.3]]]))
    assert "2 of 3 trials are on the front" in shown
    assert "on the front" not in page(Run.read(bench.write(tmp_path / "one")))
