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

    def _table(self, table):
        self.table = table

    def _files(self, files):
        self.files = {file.name: file.read_text() for file in files}

    def _end(self):
        self.said.append("end")


def test_each_generation_and_the_verdict_are_told_once(tmp_path):
    tracker = Kept(bench.write(tmp_path / "run"), None)
    log(tracker)
    assert [step for step, _ in tracker.logged] == [0, 1, 1]
    assert [(s, n["gain/best"]) for s, n in tracker.logged[:2]] == [
        (s, pytest.approx(g)) for s, g in GAINS
    ]
    assert [(s, n["fitness/median"]) for s, n in tracker.logged[:2]] == MEDIANS
    assert tracker.logged[0][1]["metric/best_anchor"] == pytest.approx(0.25)
    assert tracker.logged[1][1]["trials"] == 4
    assert tracker.logged[2][1]["verdict/anchor/low"] == 0.0321
    # trial 6 leads generation 1: its smooth score on both tasks is 0.6, its point (0.25, 1)
    assert tracker.logged[1][1]["score/quiz"] == pytest.approx(0.6)
    assert tracker.logged[1][1]["coefficient/models[left].weight[1]"] == 1.0
    assert tracker.logged[2][1]["held_out/quiz"] == 0.75
    assert tracker.config["search.optimizer"] == "random"
    assert tracker.said[0].startswith("Improvement shown")
    assert tracker.said[-1] == "end"


def test_a_finished_study_hands_over_its_trials_its_report_and_its_recipe(tmp_path):
    run = bench.write(tmp_path / "run")
    (run / "best").mkdir()
    (run / "best" / "recipe.yaml").write_text("merge_method: ties\n")
    tracker = Kept(run, None)
    log(tracker)
    assert len(tracker.table.rows) == 8
    winner = dict(zip(tracker.table.columns, tracker.table.rows[6], strict=True))
    assert (winner["name"], winner["fitness"]) == ("trial 6", 0.875)
    assert winner["gain"] == pytest.approx(0.275)
    assert winner["models[left].weight[1]"] == 1.0
    assert winner["score quiz"] == pytest.approx(0.6)
    assert set(tracker.files) == {"report.html", "trials.csv", "dimensions.csv", "recipe.yaml"}
    assert "Improvement shown" in tracker.files["report.html"]
    assert tracker.files["trials.csv"].startswith("number,name,kind,")
    unfinished = Kept(bench.write(tmp_path / "begun", bench.events()[:-3]), None)
    log(unfinished, bench.events()[:-3])
    assert not hasattr(unfinished, "files")


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
    bench.write(tmp_path)
    log(open_tracker("tensorboard", tmp_path))
    assert {"report.html", "trials.csv"} <= {f.name for f in (tmp_path / "tensorboard").iterdir()}
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
def test_mlflow_reads_what_was_logged_and_a_resumed_study_goes_on_in_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)  # where the store puts artifacts
    bench.write(tmp_path / "run")
    log(open_tracker(f"mlflow:{uri}", tmp_path / "run"))
    log(open_tracker(f"mlflow:{uri}", tmp_path / "run"), bench.events()[:3])
    client = mlflow.MlflowClient(tracking_uri=uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "evomerge"]
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "gain/best")
    assert [(m.step, pytest.approx(m.value)) for m in history] == GAINS
    assert {"report.html", "trials.csv"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    assert run.data.metrics["held_out/quiz"] == 0.75
    assert run.data.metrics["coefficient/models_left_.weight_1_"] == 1.0
    assert run.data.params["search.trials"] == "4"
    assert run.data.tags["verdict"].startswith("Improvement shown")
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    bench.write(tmp_path / "run")
    log(open_tracker("wandb", tmp_path / "run"))
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    names = (b"gain/best", b"search.optimizer", b"Improvement shown", b"report.html", b"score/quiz")
    for text in names:
        assert text in content
