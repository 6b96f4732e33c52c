from evomerge.report import status_text, summary
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench


def record(length=None):
    return Record.from_events(parse_all(bench.events()[:length]))


def test_the_summary_of_a_finished_study_has_its_numbers():
    state = summary(record())
    assert state["phase"] == "done"
    assert state["generation"] == 1
    assert (state["searched"], state["wanted"]) == (4, 4)
    gain = state["leader"].pop("gain")
    assert abs(gain - 0.275) < 1e-12
    leader = {"name": "trial 6", "trial": 6, "fitness": 0.875, "breaks": False, "answers": ""}
    assert state["leader"] == leader
    assert state["last"]["best"] == 0.875
    assert state["last"]["median"] == (0.875 + 0.65) / 2
    assert state["last"]["correlation"] == 0.75
    assert state["forward_share"] == 0.5
    assert state["exported"] is True


def test_the_leader_is_who_was_furthest_ahead_of_the_reference_not_the_highest_score():
    events = bench.events()
    first = next(event for event in events if event["event"] == "told")
    first["fitness"], first["reference"]["fitness"] = [0.9, None], 0.89
    replayed = Record.from_events(parse_all(events))
    assert replayed.status()["best"]["trial"] == 6
    assert summary(replayed)["leader"]["trial"] == 6


def test_the_status_of_a_finished_study_reads_as_a_few_lines():
    assert status_text(record()).splitlines() == [
        "phase    done",
        "trials   4 of 4 searched; 8 with anchors, 1 failed",
        "anchors  best parent left −0.875, best anchor uniform average 0.250 (metric)",
        "leader   trial 6: 0.875, +0.275 over the reference anchor",
        "search   generation 1: best 0.875, median 0.762, reference 0.600; "
        "rank correlation with the metric 0.75",
        "cost     1 min 28 s of workers' time, 50 % of it forward; 81 item evaluations",
        "failed   1 oom; last: oom: out of memory",
        "verdict  Improvement shown: trial 6 scores +0.3125 [-0.100, +0.700]; 95 % intervals.",
    ]


def test_a_study_that_has_not_begun_has_a_status_too():
    assert status_text(Record()).splitlines() == [
        "phase    check",
        "trials   0 searched; 0 with anchors",
        "cost     0.0 s of workers' time; 0 item evaluations",
        "verdict  none yet",
    ]


def test_every_prefix_of_a_journal_has_a_status_of_whole_lines():
    for length in range(len(bench.events())):
        lines = status_text(record(length)).splitlines()
        assert lines[0].startswith("phase    ")
        assert lines[-1].startswith("verdict  ")


def test_a_trial_that_keeps_the_constraints_leads_before_all_that_break_one():
    events = bench.events()
    for event in events:
        if event["event"] == "told":
            event["violations"] = [[0.1, None], [0.2, 0.0]][event["generation"]]
    replayed = Record.from_events(parse_all(events))
    assert summary(replayed)["leader"]["trial"] == 7  # trial 6 scores higher, and breaks one
    assert "breaks" not in status_text(replayed)
    for event in events:
        if event["event"] == "told":
            event["violations"] = [[0.1, None], [0.2, 0.3]][event["generation"]]
    assert "it breaks a constraint, as all do" in status_text(Record.from_events(parse_all(events)))
