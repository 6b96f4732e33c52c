"""Events that an earlier version wrote are read in today's form."""

from evomerge.study.journal.old_events import upgraded

TRIAL = {"kind": "trial", "trial": 6, "digest": "d6", "name": "trial 6"}
ANCHOR = {"kind": "anchor", "trial": 3, "digest": "d3", "name": "uniform average"}


def test_the_race_winner_that_0_1_0_called_contender_is_read_with_its_scores():
    scores = {"uniform average": {"qa": 0.5}, "contender": {"qa": 0.6}, "winner": {"qa": 0.5}}
    old = {"event": "verdict", "winner": ANCHOR, "contender": TRIAL, "scores": scores}
    event = upgraded(old)
    assert event["winner"] == ANCHOR
    assert event["race_winner"] == TRIAL
    assert event["scores"]["race_winner"] == {"qa": 0.6}
    assert "contender" not in {*event, *event["scores"]}
    assert old["contender"] == TRIAL  # the argument is left as it was


def test_a_verdict_of_0_1_0_that_recommends_the_race_winner_names_it_twice():
    event = upgraded({"event": "verdict", "winner": TRIAL, "scores": {"winner": {"qa": 0.6}}})
    assert event["race_winner"] == event["winner"] == TRIAL
    assert upgraded(event) is event
