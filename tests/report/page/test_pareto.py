from evomerge.report.page import constraints
from evomerge.report.page.page import page
from evomerge.report.page.pareto import section
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
    result = section(run_with(tmp_path, [[[0.1, 0.0], None], [[0.2, 0.1], [-0.1, 0.3]]]))
    assert (result["front"], result["of"], result["pairs"]) == (2, 3, 1)
    assert result["table"] == [
        {"index": 1, "name": "trial 6", "recommended": True, "cells": ["+0.200", "+0.100"]},
        {"index": 2, "name": "trial 7", "recommended": False, "cells": ["−0.100", "+0.300"]},
    ]
    [figure] = result["figures"]
    wide = figure.partition('<div class="at-phone">')[0]
    assert wide.count("<rect") == 3  # the two of the front, and the winner's frame
    assert "uniform average: the reference, gain 0" in wide
    assert ">1</text>" in wide  # a point's number is its row's in the table
    assert "gain on quiz" in figure
    assert "gain on text" in figure


def test_constraints_are_a_table_beside_the_held_out_items(tmp_path):
    row = {"constraint": "quiz >= base", "score": 0.5, "limit": 0.625, "kept": False}
    chosen = {"event": "chosen", "trial": 6, "instead_of": 7, "reason": "trial 7 breaks quiz >= 1"}
    events = [
        {**e, "violations": [0.0, None] if e["generation"] == 0 else [0.0, 0.25]}
        if e["event"] == "told"
        else {**e, "constraints": [row]}
        if e["event"] == "verdict"
        else e
        for e in bench.events()
    ]
    run = Run.read(bench.write(tmp_path / "run", [*events, chosen]))
    result = constraints.section(run)
    assert result["rows"] == [
        {"text": "quiz >= base", "score": "0.500", "limit": "0.625", "fate": "broken"}
    ]
    assert "2 of 3 trials satisfied them" in result["said"]
    assert "Trial 6 is taken: trial 7 breaks quiz &gt;= 1." in page(run)
    assert constraints.section(Run.read(bench.write(tmp_path / "free"))) == {}


def test_the_page_shows_it_only_where_there_are_several_objectives(tmp_path):
    shown = page(run_with(tmp_path / "two", [[[0.1, 0.0], None], [[0.2, 0.1], [-0.1, 0.3]]]))
    assert "2 of 3 trials are on the front" in shown
    assert "on the front" not in page(Run.read(bench.write(tmp_path / "one")))
