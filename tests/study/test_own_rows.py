"""Models' own rows in a study: search items alone, measured once, anchors, resumed, rebuilt."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

import evomerge
from evomerge.calibration import statistics
from evomerge.calibration.mask import learn
from evomerge.calibration.requests import Collect, Collected, Measure, Measured
from evomerge.core.errors import UserError
from evomerge.methods.registry import METHODS
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import AS_USUAL, Data
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.own_rows import described
from evomerge.study.phases.anchors import anchors
from evomerge.study.study import Study
from evomerge.study.workers import pool as pool_module
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Evaluate, Scores
from tests.models import load
from tests.study.small_study import InProcessPool, events, real_study, substance

OWN = [
    {"model": "zoo/one", "tasks": ["small_choice"]},
    {"model": "zoo/two", "tasks": ["small_write"]},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)


@pytest.fixture
def config_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., StudyConfig]:
    file = real_study(tmp_path_factory.getbasetemp() / "real-study")

    def made(**keys: Any) -> StudyConfig:
        document = json.loads(file.read_text())
        document["search"] |= {"trials": 4, "optimizer": "cmaes"}
        document["evaluate"]["items"]["per_generation"] = 8
        return StudyConfig.from_dict({**document, "models": OWN, **keys}, file.parent)

    return made


def documents_of(config: StudyConfig) -> list[dict[str, Any]]:
    data = Path(config.evaluate.include_path[0]) / "documents.jsonl"
    return [json.loads(line) for line in data.read_text().splitlines()]


def rows_in(folder: Path) -> list[list[dict[str, str]]]:
    return [[json.loads(x) for x in f.read_text().splitlines()] for f in sorted(folder.iterdir())]


def test_a_study_with_rows_races_its_anchors_and_its_winner_is_built_again_from_best(
    config_with: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    space = {
        "merges": {"fit": {"merge_method": "regmean", "models": ["*"]}},
        "merge_method": "task_arithmetic",
        "models": [{"model": "fit", "parameters": {"weight": {"low": 0, "high": 2}}}],
    }
    config = config_with(space=space, calibration={"rows": 12})
    run = tmp_path / "run"
    study = Study(config, run)
    study.optimize()
    record = study.record
    names = [trial.name for trial in record.trials.values() if trial.kind == "anchor"]
    assert names[-5:] == ["RegMean λ=1", "RegMean λ=1.5", "Fisher λ=1", "Fisher λ=1.5", "UBGM"]
    assert all(trial.failure is None for trial in record.trials.values())

    pools = record.pools
    documents = documents_of(config)
    wanted = {
        json.dumps([documents[i]["prompt"] for i in sorted(pools["search"][task])])
        for task in ("small_choice", "small_write")
    }
    made = rows_in(run / "rows")
    assert {json.dumps([row["prompt"] for row in rows]) for rows in made} == wanted
    seen = {row["prompt"] for rows in made for row in rows}
    for pool in ("race", "holdout"):
        judged = {documents[i]["prompt"] for ids in pools[pool].values() for i in ids}
        assert judged.isdisjoint(seen)

    study.confirm()
    first = substance(run)
    recipe = Recipe.from_yaml(run / "best" / "recipe.yaml")
    winner = study.record.winner
    assert winner is not None
    assert recipe.digest == winner.digest
    for file in (run / "rows").iterdir():
        file.unlink()  # best/ has a copy of what its recipe reads
    digest = evomerge.build(run / "best" / "recipe.yaml", tmp_path / "again")
    assert digest == events(run, "exported")[-1]["weights_digest"]

    # killed while anchors are scored: the same command finds the rest, and the same statistics
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = next(i for i, line in enumerate(lines) if b'"asked"' in line)
    (run / JOURNAL).write_bytes(b"".join(lines[: asked + 3]))
    Study(config, run).confirm()
    assert substance(run) == first


def test_a_statistic_is_a_unit_of_work_and_equal_whoever_makes_it(
    config_with: Callable[..., StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with()
    one, two = Evaluator(config), Evaluator(config)
    rows = one.handle(Collect({"small_write": [3, 5], "small_choice": [4]}))
    assert isinstance(rows, Collected)
    documents = documents_of(config)
    assert rows.collected["small_write"][1]["prompt"] == documents[5]["prompt"]
    assert rows.collected["small_write"][1]["answer"] == f" {documents[5]['answer']}<eos>"
    choice = documents[4]["choices"][documents[4]["gold"]]
    assert rows.collected["small_choice"][0]["answer"].strip() == choice
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.collected["small_write"]))
    data = Data.kind_of(str(file), "data")[1]
    for kind in ("gram", "fisher"):
        request = Measure(config.models[0], kind, data, {})
        first = one.handle(request)
        assert isinstance(first, Measured)
        assert (first.rows, first.cut) == (2, 0)
        with monkeypatch.context() as patch:  # another process: it finds what the first has made
            patch.setattr(statistics, "live_parent", None)
            again = two.handle(request)
        assert isinstance(again, Measured)
        assert again.statistic == first.statistic
        monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / f"apart-{kind}"))
        apart = Evaluator(config).handle(request)
        assert isinstance(apart, Measured)
        assert apart.statistic == first.statistic


@pytest.mark.slow  # real workers
@pytest.mark.parametrize(
    ("workers", "fault"), [(1, "worker.measure:1:kill"), (2, "worker.measure:2:kill"), (4, "")]
)
def test_a_run_is_the_same_with_any_number_of_workers_also_if_one_is_killed_in_a_statistic(
    config_with: Callable[..., StudyConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    fault: str,
) -> None:
    Study(config_with(), tmp_path / "alone").optimize()
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "other-cache"))
    monkeypatch.setattr(study_module, "open_pool", pool_module.open_pool)
    if fault:
        monkeypatch.setenv("EVOMERGE_FAULT", f"{fault}:{tmp_path / 'struck'}")
    config = config_with(workers={"backend": "local", "count": workers, "threads": 1})
    Study(config, tmp_path / "run").optimize()
    assert (tmp_path / "struck").exists() == bool(fault)
    runs = [tmp_path / "run", tmp_path / "alone"]  # recipes name rows in their run's folder
    ours, alone = (json.dumps(substance(run)).replace(str(run), "RUN") for run in runs)
    assert json.loads(ours) == json.loads(alone)


def test_a_merge_of_models_data_is_made_once_and_not_for_every_candidate(
    config_with: Callable[..., StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with()
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "w1 w2 w3 w4"}) + "\n")
    models = [{"model": model, "data": str(file)} for model in config.models]
    solved: list[int] = []
    spec = METHODS["regmean"]

    @wraps(spec.function)
    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        solved.append(1)
        return spec.function(*arguments, **named)

    monkeypatch.setitem(METHODS, "regmean", dataclasses.replace(spec, function=counted))
    evaluator = Evaluator(config)
    for weight in (0.5, 1.0, 1.5):
        recipe = {
            "merges": {
                "fit": {
                    "merge_method": "regmean",
                    "base_model": config.base_model,
                    "models": models,
                }
            },
            "merge_method": "task_arithmetic",
            "base_model": config.base_model,
            "models": [{"model": "fit", "parameters": {"weight": weight}}],
            "dtype": "float32",
        }
        answer = evaluator.handle(Evaluate(recipe, [{"small_choice": [0, 1]}], "smooth"))
        assert isinstance(answer, Scores), answer
    n_tensors = len(load(config.models[0]))
    assert len(solved) == n_tensors


def test_a_mask_is_learned_once_before_the_search_whose_scales_gradients_tune(
    config_with: Callable[..., StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []

    def counted(*arguments: Any) -> Any:
        learned.append(1)
        return learn(*arguments)

    monkeypatch.setattr(statistics, "learn", counted)
    config = config_with(
        space="concrete",
        calibration={"rows": 12, "steps": 6},
        search={"optimizer": "adam", "trials": 3},
    )
    run = tmp_path / "run"
    study = Study(config, run)
    study.confirm()
    assert learned == [1]
    trials = [trial for trial in study.record.trials.values() if trial.kind == "trial"]
    assert len(trials) == 3
    assert set(trials[0].point or ()) == {1.0}  # it starts at what was learned
    assert all(trial.failure is None for trial in study.record.trials.values())
    assert any(any(g) for event in events(run, "told") for g in event["gradients"])
    for file in (run / "rows").iterdir():
        file.unlink()
    assert trials[0].recipe is not None
    evomerge.build(Recipe.from_dict(trials[0].recipe), tmp_path / "out")  # no row is read again
    assert learned == [1]
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    cut = [i for i, line in enumerate(lines) if b'"told"' in line][1]
    first = substance(run)
    (run / JOURNAL).write_bytes(b"".join(lines[:cut]))
    Study(config, run).confirm()
    assert substance(run) == first


def test_a_search_over_a_fit_starts_at_the_best_anchor_that_lies_there(
    config_with: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    config = config_with()
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "w1 w2 w3 w4"}) + "\n")
    data = {m: Data(**Data.kind_of(str(file), "data")[1]) for m in config.models}
    space = SearchSpace.from_yaml("regmean_then_tensor").bind(
        config.base_model, config.models, "float32", config.search.seed
    )
    space = space.with_data(data, AS_USUAL)
    n = len(space.dimensions) // 3
    listed = {a.name: a.recipe for a in anchors(config, data)}
    assert space.fill([d.start for d in space.dimensions]).digest
    wanted = {
        "RegMean λ=1": (1.0, 0.0, 0.0),
        "RegMean λ=1.5": (1.5, 0.0, 0.0),
        "task arithmetic λ=0.5": (0.0, 0.5, 0.5),
        "Fisher λ=1": None,
        "uniform average": None,
    }
    for name, weights in wanted.items():
        point = point_of(space, listed[name])
        expected = None if weights is None else tuple(w for w in weights for _ in range(n))
        assert point == expected, name
    for name in ("RegMean λ=1.5", "task arithmetic λ=0.5"):
        point = point_of(space, listed[name])
        assert point is not None
        evomerge.build(space.fill(point), tmp_path / f"{name} through")
        evomerge.build(listed[name], tmp_path / name)
        straight = load(tmp_path / name)
        for tensor, value in load(tmp_path / f"{name} through").items():
            torch.testing.assert_close(value, straight[tensor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"models": [{"model": "zoo/one", "tasks": ["no"]}, "zoo/two"]}, "unknown task 'no'"),
        ({"data": [{"model": "zoo/three", "tasks": ["small_write"]}]}, "unknown model"),
        ({"data": [{"model": "zoo/one", "tasks": ["small_write"]}]}, "has rows twice"),
        ({"models": [{"model": "zoo/one", "tasks": []}, "zoo/two"]}, "expected tasks or data"),
        ({"models": [{"model": "zoo/one", "data": "no.jsonl"}, "zoo/two"]}, "cannot be read"),
        ({"calibration": {"rows": -1}}, "calibration.rows"),
    ],
)
def test_mistakes_about_rows_are_named(
    keys: Any, message: str, config_with: Callable[..., StudyConfig]
) -> None:
    with pytest.raises(UserError, match=message):
        config_with(**keys)


def test_a_space_that_reads_rows_of_a_model_without_is_refused_before_anything_is_loaded(
    config_with: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    config = config_with(models=["zoo/one", OWN[1]], space="regmean")
    study = Study(config, tmp_path / "run")
    for call in (study.optimize, study.ask):
        with pytest.raises(UserError, match=r"reads rows of .*zoo/one: write `\{model"):
            call()


def test_ask_and_tell_take_rows_from_files_alone(
    config_with: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    with (
        Study(config_with(space="regmean"), tmp_path / "tasks") as study,
        pytest.raises(UserError, match="give the model `data: FILE`"),
    ):
        study.ask()
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "w1 w2 w3 w4"}) + "\n")
    models = [{"model": f"zoo/{name}", "data": str(file)} for name in ("one", "two")]
    with Study(config_with(space="regmean", models=models), tmp_path / "files") as study:
        asked = [study.ask() for _ in range(4)]
        names = [trial.name for trial in study.trials]
        assert "RegMean λ=1.5" in names
        assert asked[0].number == 0
    trial = next(t for t in study.trials if t.name == "RegMean λ=1")
    evomerge.build(trial.recipe, tmp_path / "out")


def test_check_says_whose_rows_are_what(config_with: Callable[..., StudyConfig]) -> None:
    pools = {"small_choice": list(range(25)), "small_write": list(range(25))}
    said = described(config_with(calibration={"rows": 12}), pools)
    assert said == (
        "one: 12 of 25 search items of small_choice; two: 12 of 25 search items of small_write"
    )
    assert described(config_with(models=["zoo/one", "zoo/two"]), pools) is None


def test_a_study_document_with_rows_is_read_back_as_it_was_written(
    config_with: Callable[..., StudyConfig],
) -> None:
    config = config_with(calibration={"labels": "sampled"})
    assert config.models[0].endswith("zoo/one")
    again = StudyConfig.from_dict(config.to_dict(), Path("/"))
    assert again == config
