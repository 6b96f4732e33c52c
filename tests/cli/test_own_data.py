"""`check` forecasts what models' own rows take: statistics, their anchors, disk and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.calibration.requests import Collect, Collected, Sample, Sampled
from evomerge.cli import preflight
from evomerge.cli.display.progress import Progress
from evomerge.cli.own_data import own_data
from evomerge.recipe.space.space import SearchSpace
from evomerge.report.run import Run
from evomerge.report.status import status_text
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.record import Record
from evomerge.study.study import Study
from tests.study.small_study import InProcessPool, real_study

GATED = {"rank": 2, "steps": 5, "scale": {"low": 0.5, "high": 1.5}}
GATES = {"models": [{"model": "*"}], "parameters": GATED, "dtype": "float32"}
OWN = [
    {"model": "zoo/one", "tasks": ["small_choice"]},
    {"model": "zoo/two", "tasks": ["small_write"]},
]


@pytest.fixture
def file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    for module in (preflight, study_module):
        monkeypatch.setattr(module, "open_pool", InProcessPool)
    plain = real_study(tmp_path_factory.getbasetemp() / "real-study")
    document = json.loads(plain.read_text()) | {"models": OWN, "space": "regmean"}
    document["search"] |= {"trials": 4, "optimizer": "cmaes"}
    document["evaluate"]["items"]["per_generation"] = 8
    made = plain.parent / "own-data.json"
    made.write_text(json.dumps(document))
    return made


def test_check_keeps_nothing_and_says_what_the_search_then_keeps(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preflight.run_check(file, parents=False)
    before = capsys.readouterr().out
    kept = tmp_path / "cache" / "statistics"
    assert list(kept.iterdir()) == []
    assert before.count("of 2 models") == 2
    assert before.count("all still to be made") == 2
    for words in ("RegMean's matrices", "squared gradients", "solving takes", "(own data "):
        assert words in before
    assert "of products (before the search" in before

    config = StudyConfig.from_yaml(file)
    with Progress(config) as progress:
        Study(config, tmp_path / "run", progress).optimize()
    said_first = capsys.readouterr().out.replace("\n", " ")
    assert "rows: one: 25 of 25 search items of small_choice; two: 25 of 25" in said_first
    size = sum(f.stat().st_size for f in kept.glob("*/*.safetensors")) / 1e6
    said = before.partition("by magnitude and ")[2].partition(" MB of what models' rows say")[0]
    assert float(said) == pytest.approx(size, rel=0.1)  # without the files' headers
    preflight.run_check(file, parents=False)
    after = capsys.readouterr().out
    assert after.count(", all made already") == 2
    assert "(own data 0.0 s" in after


def record_of(run: Path) -> Record:
    return Run.read(run).record


@pytest.mark.parametrize(
    ("space", "said", "cost"),
    [
        # 4 steps on all 50 rows' 32, forward and back
        ("concrete", "the mask of concrete, trained on 50 rows", 4 * 32 * 3),
        # 5 steps on 8 rows of each of two models; Twin-Merging reads each row once
        (GATES | {"merge_method": "mole"}, "gates of mole, trained on 50 rows", 5 * 16 * 3),
        (GATES | {"merge_method": "twin_merging"}, "gates of twin_merging, trained on 50 rows", 50),
    ],
)
def test_training_before_the_search_is_forecast_and_counted_once(
    space: Any, said: str, cost: int, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(file.read_text()) | {"space": space, "calibration": {"steps": 4}}
    document["search"] = {"optimizer": "random", "trials": 2}
    file.write_text(json.dumps(document))
    preflight.run_check(file, parents=False)
    before = " ".join(capsys.readouterr().out.split())
    assert f"{said} before the search: {cost:,} item evaluations, about " in before
    assert "(own data " in before
    assert list((tmp_path / "cache" / "statistics").glob("*")) == []

    # RegMean and Fisher anchors read the same 50 rows: once, and once forward and back
    whole = cost + 50 + 3 * 50
    assert f"{whole:,} item evaluations of models' own rows before the search" in before
    Study(StudyConfig.from_yaml(file), tmp_path / "run").optimize()
    record = record_of(tmp_path / "run")
    assert record.of_own_rows == whole
    assert record.item_evaluations > whole
    assert f", {whole:,} of them of models' own rows" in status_text(record)
    events = [(one.kind, one.rows) for one in record.measured]
    trained = "mask" if space == "concrete" else "gates"
    assert sorted(events) == sorted([("fisher", 25), ("gram", 25)] * 2 + [(trained, 50)])
    Study(StudyConfig.from_yaml(file), tmp_path / "run").confirm()
    assert record_of(tmp_path / "run").of_own_rows == whole
    preflight.run_check(file, parents=False)
    assert f"{cost:,} item evaluations, done already" in " ".join(capsys.readouterr().out.split())
    # another run pays as much, though nothing has to be trained again
    Study(StudyConfig.from_yaml(file), tmp_path / "again").optimize()
    assert record_of(tmp_path / "again").of_own_rows == whole


class Answers:
    """A scheduler of a worker whose Gram matrices take 10 s, a fit 8 s and 2 s with products."""

    def ask(self, request: Any, answer: Any) -> Any:
        del answer
        if isinstance(request, Collect):
            return Collected(
                {t: [{"text": f"w{i}"} for i in ids] for t, ids in request.items.items()}
            )
        assert isinstance(request, Sample)
        models = list(request.data)
        if request.kind == "fisher":
            return Sampled(models, 7, 30, 0, {"each": 20.0, "fit": 0.0, "refit": 0.0})
        return Sampled(models[:1], 5, 40, 11, {"each": 10.0, "fit": 8.0, "refit": 2.0})


@pytest.mark.parametrize(
    ("space", "once", "trial", "recalled"),
    [
        ("regmean", 0, 2, 11),
        ("regmean_then_tensor", 16, 0, 0),
        ("task_arithmetic_by_depth", 0, 0, 0),
    ],
)
def test_fits_are_paid_by_anchors_by_each_worker_once_or_by_every_trial(
    space: str, once: int, trial: int, recalled: int, file: Path, tmp_path: Path
) -> None:
    document = json.loads(file.read_text()) | {"space": space}
    document["workers"] = {"backend": "local", "count": 2}
    config = StudyConfig.from_dict(document, file.parent)
    bound = Study(config, tmp_path / "run").space
    assert isinstance(bound, SearchSpace)
    search = {"small_choice": [0, 1], "small_write": [2]}
    own = own_data(config, bound, search, Answers(), tmp_path)  # type: ignore[arg-type]
    assert own.seconds == 10 + 2 * 20  # one of two is made already
    assert own.fits == {"anchors": 2 * 8, "once": once, "trial": trial}
    assert (own.disk, own.making, own.recalled) == (2 * 5 + 2 * 7, 40, recalled)
    names = [anchor.name for anchor in own.anchors]
    assert names[-5:] == ["RegMean λ=1", "RegMean λ=1.5", "Fisher λ=1", "Fisher λ=1.5", "UBGM"]
