"""Trackers get a study's numbers: each real library writes, and is read by its own reader."""

import subprocess
import sys

import pytest

from evomerge.core.errors import UserError
from evomerge.report.trackers import Tracker, open_tracker
from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench

# By hand from the bench: generation 0 [0.625, None], generation 1 [0.875, 0.65], reference 0.6.
GAINS = [(0, 0.025), (1, 0.275)]
MEDIANS = [(0, 0.625), (1, 0.7625)]


def log(logger, events=None):
    record = Record()
    for event in parse_all(bench.events() if events is None else events):
        record.apply(event)
        logger(event, record)
    logger.close()


class Kept(Tracker):
    """Keeps what it is told."""

    def _begin(self, identity, config):
        self.identity, self.config, self.logged, self.said = identity, config, [], []

    def _log(self, numbers, step):
        self.logged.append((step, numbers))

    def _say(self, sentence):
        self.said.append(sentence)

    def _end(self):
        self.said.append("end")


def test_each_generation_and_the_verdict_are_told_once(tmp_path):
    tracker = Kept(tmp_path, None)
    log(tracker)
    assert [step for step, _ in tracker.logged] == [0, 1, 1]
    assert [(s, n["gain/best"]) for s, n in tracker.logged[:2]] == [
        (s, pytest.approx(g)) for s, g in GAINS
    ]
    assert [(s, n["fitness/median"]) for s, n in tracker.logged[:2]] == MEDIANS
    assert tracker.logged[0][1]["metric/best_anchor"] == pytest.approx(0.25)
    assert tracker.logged[1][1]["trials"] == 4
    assert tracker.logged[2][1]["verdict/anchor/low"] == 0.0321
    assert tracker.config["search.optimizer"] == "random"
    assert tracker.said[0].startswith("Improvement shown")
    assert tracker.said[-1] == "end"


def test_a_resumed_study_is_the_same_run_and_another_study_is_not(tmp_path):
    first, again, other = (Kept(tmp_path, None) for _ in range(3))
    log(first)
    log(again, bench.events()[:-3])
    log(other, [bench.study(time=2.0), *bench.events()[2:]])
    assert first.identity == again.identity != other.identity


def test_a_tracker_that_fails_ends_its_logging_and_not_the_study(tmp_path, capsys):
    class Broken(Kept):
        def _log(self, *_):
            raise RuntimeError("no route\nto host")

    log(Broken(tmp_path, None))
    result = capsys.readouterr().err
    assert result.count("\n") == 1
    assert "nothing more is logged" in result
    assert "no route to host" in result


def test_unknown_trackers_and_missing_packages_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="tensorboard"):
        open_tracker("tensorbord", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "evomerge.report.trackers.wandb", raising=False)
    with pytest.raises(UserError, match=r"--log-to wandb needs .*pip install wandb"):
        open_tracker("wandb", tmp_path)


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    log(open_tracker("tensorboard", tmp_path))
    program = f"""
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator({str(tmp_path / "tensorboard")!r}); events.Reload()
print([(e.step, round(float(e.tensor_proto.float_val[0]), 5)) for e in events.Tensors("gain/best")])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(GAINS)


# mlflow and wandb warn of their own dependencies, and wandb leaves sockets to its service
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_was_logged_and_a_resumed_study_goes_on_in_its_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log(open_tracker(f"mlflow:{uri}", tmp_path / "run"), bench.events()[:-1])
    log(open_tracker(f"mlflow:{uri}", tmp_path / "run"), bench.events()[:3])
    client = mlflow.MlflowClient(tracking_uri=uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "evomerge"]
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "gain/best")
    assert [(m.step, pytest.approx(m.value)) for m in history] == GAINS
    assert run.data.params["search.trials"] == "4"
    assert run.data.tags["verdict"].startswith("Improvement shown")
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    log(open_tracker("wandb", tmp_path / "run"))
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in (b"gain/best", b"search.optimizer", b"Improvement shown"):
        assert text in content
