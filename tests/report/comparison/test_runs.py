import copy

import pytest

from evomerge.core.errors import UserError
from evomerge.report.comparison.page import comparison_page, write_comparison
from evomerge.report.comparison.runs import compare_runs
from evomerge.report.comparison.text import comparison_text
from tests.report import report_bench as bench
from tests.report.page.test_page import Reader


def second_run():
    """The bench's run with the uniform average recommended: it answers quiz 2 of 4, text 2.5."""
    events = copy.deepcopy(bench.events())
    verdict = next(event for event in events if event["event"] == "verdict")
    verdict |= {
        "winner": {"kind": "anchor", "trial": 3, "digest": "d3", "name": "uniform average"},
        "improvement_shown": False,
        "sentence": "No improvement shown: too few items.",
    }
    return events


@pytest.fixture
def folders(tmp_path):
    return [bench.write(tmp_path / "a"), bench.write(tmp_path / "b", second_run())]


def test_what_two_runs_recommend_is_compared_item_by_item(folders):
    compared = compare_runs(folders)
    assert [run.name for run in compared.runs] == ["a", "b"]
    assert [run.held_out for run in compared.runs] == [0.0625, -0.25]  # beside bench.ANSWERS
    assert compared.runs[0].scores == {"quiz": 0.75, "text": 2.0}
    [pair] = compared.pairs
    assert pair.difference.difference == pytest.approx(-0.3125)
    # quiz: equal but for item 22, which b loses; text: 2.0 and 2.0 against 2.0 and 3.0
    c = pair.difference
    assert (c.wins, c.losses, c.ties, c.items) == (0, 2, 4, 6)
    assert c.low < c.difference < c.high


def test_the_text_has_a_column_for_each_run_and_a_line_for_each_pair(folders):
    lines = comparison_text(compare_runs(folders)).splitlines()
    assert lines[0].split() == ["run", "a", "b"]
    assert lines[1].endswith(" none shown")
    assert any(line.split()[-2:] == ["0.062", "−0.250"] for line in lines)
    [pair] = [line for line in lines if line.startswith("b minus a: −0.312 [")]
    assert pair.endswith("on 6 held-out items: 0 won, 2 lost, 4 tied.")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"protocol": "q" * 64}, "their tasks, prompts or tokenizers differ"),
        ({"pools": {**bench.study()["pools"], "holdout": {"quiz": [20], "text": [20]}}}, "items"),
    ],
)
def test_runs_without_common_items_are_not_compared_item_by_item(tmp_path, change, why):
    other = [{**e, **change} if e["event"] == "study" else e for e in bench.events()]
    folders = [bench.write(tmp_path / "a"), bench.write(tmp_path / "b", other)]
    text = comparison_text(compare_runs(folders))
    assert "b against a: not comparable item by item: " in text
    assert why in text


def test_a_run_without_verdict_stands_beside_one_with(tmp_path):
    begun = bench.write(tmp_path / "begun", bench.events()[:3])
    done = bench.write(tmp_path / "done")
    text = comparison_text(compare_runs([done, begun]))
    assert "no verdict yet" in text
    assert "begun has no verdict on held-out items yet" in text
    assert "2 runs side by side" in comparison_page(compare_runs([done, begun]))


def test_the_page_has_tables_a_forest_and_curves_and_loads_nothing(folders, tmp_path):
    out = write_comparison(folders, tmp_path / "page.html")
    read = Reader(out.read_text("utf-8"))
    assert read.tables["runs"][0][0] == ["", "a", "b"]
    assert read.tables["heldout"][0][1:] == [
        ["a", "0.750", "2.000", "0.062"],
        ["b", "0.500", "2.500", "−0.250"],
    ]
    # lower is better on text: both of a's scores are the best
    best = [a for tag, a in read.elements if tag == "td" and "best" in a.get("class", "")]
    assert len(best) == 2
    labels = {a["aria-label"] for tag, a in read.elements if tag == "svg" and "role" in a}
    assert labels == {
        "Paired differences of the runs",
        "Best gain so far by search trials",
        "Best gain so far by item evaluations, anchors included",
    }
    assert not [a for _, a in read.elements if "src" in a]


def test_a_search_without_a_reference_has_the_mean_of_its_steps_over_the_best_baseline(tmp_path):
    alone = [{**e, "reference": None} if e["event"] == "told" else e for e in bench.events()]
    folders = [bench.write(tmp_path / "a"), bench.write(tmp_path / "b", alone)]
    compared = compare_runs(folders)
    assert compared.means == {"b"}
    first, second = compared.curves["b"]
    told = [e["fitness"] for e in alone if e["event"] == "told"]
    best = [max(f for f in fitness if f is not None) for fitness in told]
    assert second.gain - first.gain == pytest.approx(sum(best) / 2 - best[0])  # one zero for both
    assert first.items == compared.curves["a"][0].items
    assert "Dashed, b: along gradients" in comparison_page(compared)


def test_a_narrow_terminal_has_runs_below_each_other(folders):
    lines = comparison_text(compare_runs(folders), width=50).splitlines()
    starts = [line.split() for line in lines if line.startswith("run ")]
    assert starts == [["run", "a"], ["run", "b"]]


def test_one_run_or_the_same_twice_is_a_mistake(folders):
    with pytest.raises(UserError, match="expected 2 to 6 run folders to compare, but got 1"):
        compare_runs(folders[:1])
    with pytest.raises(UserError, match="expected different runs, but it is given twice"):
        compare_runs([folders[0], folders[0]])
