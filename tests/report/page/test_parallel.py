from evomerge.report.page.parallel import section
from evomerge.report.run import Run
from tests.report import report_bench as bench


def test_the_best_trials_are_drawn_over_the_others_and_failed_ones_are_not(tmp_path):
    result = section(Run.read(bench.write(tmp_path / "run")))
    assert (result["of"], result["lines"], result["rows"], result["dimensions"]) == (3, 3, 2, 2)
    figure = str(result["figure"])
    assert figure.count('class="line s5 back"') == 1
    assert figure.count('class="line s1 front"') == 2
    # trial 6 leads by 0.875 - 0.6; all trials lie at (0.25, 1.0), whose second is the row's end
    assert "<title>trial 6: +0.275</title>" in figure
    assert "<title>trial 5" not in figure
    assert 'points="477,57 900,79"' in figure
    assert "left weight[1]" in figure


def test_a_rank_correlation_by_hand_stands_at_each_row(tmp_path):
    events = bench.events()
    for event in events:
        for trial in event.get("trials", []) if event["event"] == "asked" else []:
            if trial["kind"] == "trial":  # gains: 4 +0.025, 6 +0.275, 7 +0.05
                trial["point"] = {4: [0.1, 0.9], 6: [0.5, 0.5], 7: [0.2, 0.1]}.get(
                    trial["trial"], [0.0, 0.0]
                )
    extra = [
        {**e, "fitness": [0.625, 0.61]} if e["event"] == "told" and e["generation"] == 0 else e
        for e in events
        if e["event"] != "failed"
    ]
    figure = str(section(Run.read(bench.write(tmp_path / "run", extra)))["figure"])
    # gains .025 .01 .275 .05 rank 2 1 4 3; first .1 0 .5 .2 the same order: 1
    # second .9 0 .5 .1 rank 4 1 3 2: 1 - 6 (4 + 0 + 1 + 1) / 60 = 0.4
    assert ">+1.00<" in figure
    assert ">+0.40<" in figure


def test_a_run_that_has_hardly_begun_shows_none(tmp_path):
    assert section(Run.read(bench.write(tmp_path / "run", bench.events()[:5]))) == {}
