from evomerge.report.findings.progress import generations
from evomerge.report.page.convergence import section
from evomerge.report.run import Run
from tests.report import report_bench as bench


def test_random_trials_are_drawn_apart_and_lead_no_generation(tmp_path):
    events = bench.events()
    for event in events:
        for trial in event["trials"] if event["event"] == "asked" else []:
            if trial["trial"] == 6:  # fitness 0.875, the highest of all
                trial["kind"] = "random"
    run = Run.read(bench.write(tmp_path / "run", events))
    result = generations(run)
    assert [standing.fitness for standing in result[1].optimized] == [0.65]
    assert [standing.fitness for standing in result[1].random] == [0.875]
    shown = section(run)
    assert "scores 0.650" in shown["said"]
    assert "trial 6, generation 1: +0.275" in str(shown["gain"])  # 0.875 - 0.6
    assert "best random so far" in str(shown["gain"])
    assert "best random so far" not in str(section(Run.read(bench.write(tmp_path / "b")))["gain"])
