import optuna
import pytest
from optuna.trial import TrialState

from evomerge.study.analysis.optuna_mirror import GAIN, Mirror
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench


def mirrored(storage, events):
    mirror, record = Mirror("run", storage), Record()
    for event in parse_all(events):
        record.apply(event)
        mirror(event, record)
    return mirror.study


def test_told_trials_have_their_gain_their_point_and_their_times():
    events = bench.events()  # a study writes a failure down before the generation is told
    failed = next(e for e in events if e["event"] == "failed")
    events.remove(failed)
    events.insert([e["event"] for e in events].index("told"), failed)
    study = mirrored(optuna.storages.InMemoryStorage(), events)
    assert [t.user_attrs["name"] for t in study.trials] == [f"trial {n}" for n in (4, 5, 6, 7)]
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    # 0.625 - 0.6; 0.875 - 0.6; 0.65 - 0.6, by hand
    assert [t.value for t in study.trials if t.value is not None] == pytest.approx(
        [0.025, 0.275, 0.05]
    )
    best = study.best_trial
    assert best.params == {"models[left].weight[0]": 0.25, "models[left].weight[1]": 1.0}
    assert best.user_attrs["fitness"] == 0.875
    assert study.trials[1].user_attrs["failure"] == "oom: out of memory"
    assert (best.datetime_complete - best.datetime_start).total_seconds() == 58.0  # 1002 to 1060
    assert study.metric_names == [GAIN]
    assert study.user_attrs["best anchor (metric)"] == "uniform average 0.250"
    assert study.user_attrs["verdict"].startswith("Improvement shown")


def test_a_storage_that_holds_some_is_gone_on_with(tmp_path):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    half = [e for e in bench.events() if e.get("generation") != 1]
    assert len(mirrored(url, half).trials) == 2
    assert len(mirrored(url, bench.events()).trials) == 4
    assert len(mirrored(url, bench.events()).trials) == 4


def test_categories_and_whole_numbers_keep_their_kind():
    events = bench.events()
    kinds = [
        {"name": "method", "kind": "categorical", "choices": ["ties", True], "low": 0, "high": 1},
        {"name": "n", "kind": "int", "low": 1, "high": 4, "log": False, "choices": []},
    ]
    events[1] = bench.study(dimensions=kinds)
    for event in events:
        if event["event"] == "asked":
            for trial in event["trials"]:
                trial["point"] = trial["point"] and [True, 3]
    study = mirrored(optuna.storages.InMemoryStorage(), events)
    assert study.trials[0].params == {"method": True, "n": 3}
