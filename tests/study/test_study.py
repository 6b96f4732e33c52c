"""A study as a whole, with stub workers, whose scores follow from the recipes' numbers."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli.display.progress import Progress
from evomerge.core.errors import UserError
from evomerge.optimizers import GeneticAlgorithm, Optimizer
from evomerge.recipe.recipe import Recipe
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.report.status import status_text
from evomerge.study.config import StudyConfig
from evomerge.study.statistics.correlation import rank_correlation
from evomerge.study.study import Study
from tests.study import small_study
from tests.study.small_study import (
    StubWorkers,
    events,
    go,
    record,
    stub_config,
    stub_document,
    substance,
)
from tests.study.stub_worker import name_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("stub_workers")


# -- the whole -------------------------------------------------------------------------------------


def test_a_study_leaves_what_the_readme_promises(stub_workers: StubWorkers, tmp_path: Path) -> None:
    stub_workers(documents=400)
    run = tmp_path / "run"
    verdict = go(run, search={"trials": 40})
    written = json.loads((run / "verdict.json").read_text())
    assert written.pop("model").keys() == {"parameters", "parameters_per_token", "code"}
    assert written == verdict
    assert set(written) >= {"winner", "improvement_shown", "scores", "comparisons", "reproduce"}
    assert written["winner"].keys() >= {"kind", "trial", "digest"}
    assert written["winner"]["kind"] in {"trial", "anchor", "parent"}
    assert {"one", "two", "base", "winner"} <= written["scores"].keys()
    for scores in written["scores"].values():
        assert scores.keys() == {"stub_choice", "stub_write"}
    for comparison in written["comparisons"]:
        assert comparison.keys() >= {
            "against",
            "difference",
            "low",
            "high",
            "wins",
            "losses",
            "items",
        }
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert written["reproduce"].startswith("lm_eval --model hf")
    assert "--samples" in written["reproduce"]
    best = Recipe.from_yaml(run / "best" / "recipe.yaml")
    trial = record(run).trials[written["winner"]["trial"]]
    assert best.digest == written["winner"]["digest"] == trial.digest
    assert (run / "best" / "model" / "weights").read_text() == name_of(dict(trial.recipe))
    assert not [file.name for file in run.rglob("*partial*")]


def test_a_search_that_can_gain_shows_its_gain(stub_workers: StubWorkers, tmp_path: Path) -> None:
    stub_workers(documents=400)
    verdict = go(tmp_path / "run", search={"trials": 40})
    assert verdict["improvement_shown"], verdict["sentence"]
    assert verdict["winner"]["kind"] == "trial"
    assert all(comparison["low"] > 0 for comparison in verdict["comparisons"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pure_chance_shows_no_gain(stub_workers: StubWorkers, tmp_path: Path, seed: int) -> None:
    stub_workers(documents=200, signal=0.0, salt=str(seed))
    verdict = go(tmp_path / "run", search={"trials": 24, "seed": seed})
    assert not verdict["improvement_shown"], verdict["sentence"]
    assert verdict["sentence"].startswith("No improvement shown")


def test_leftovers_of_a_killed_export_are_swept_away(tmp_path: Path) -> None:
    best = tmp_path / "run" / "best"
    (best / ".model.partial-7").mkdir(parents=True)
    (best / ".model.partial-7" / "model.safetensors").write_bytes(b"half")
    (best / ".recipe.yaml.partial-7").write_text("half")
    go(tmp_path / "run", search={"trials": 4})
    assert sorted(file.name for file in best.iterdir()) == [
        *("examples.json", "model", "recipe.yaml")
    ]


def test_fitness_by_the_metric_never_asks_for_smooth_scores(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, evaluate={"fitness": "metric"})
    assert {event["mode"] for event in events(run, "outcomes")} == {"metric"}
    assert {event["correlation"] for event in events(run, "told")} == {None}


def test_the_verdict_is_the_same_for_1_2_and_4_workers(tmp_path: Path) -> None:
    for count in (1, 2, 4):
        go(tmp_path / str(count), workers={"count": count})
    one, two, four = (substance(tmp_path / str(count)) for count in (1, 2, 4))
    assert one == two == four


# -- deadlines -------------------------------------------------------------------------------------


def test_a_deadline_ends_the_search_early_and_still_races_and_judges(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(seconds=0.005)
    run = tmp_path / "run"
    verdict = go(run, search={"trials": 4000, "deadline": "2s"})
    ended = events(run, "search_ended")
    assert [event["reason"] for event in ended] == ["deadline"]
    assert 4 <= ended[0]["trials"] < 4000
    assert events(run, "raced")[-1]["winner"] is not None
    assert verdict["sentence"]
    assert go(run, search={"trials": 4000, "deadline": "2s"}) == verdict
    assert len(events(run, "search_ended")) == 1


def test_a_deadline_that_is_over_at_once_still_gives_a_verdict(tmp_path: Path) -> None:
    verdict = go(tmp_path / "run", search={"trials": 40, "deadline": "0.001s"})
    assert verdict["winner"]["kind"] in {"parent", "anchor"}
    assert not events(tmp_path / "run", "told")


# -- bad input before anything is spent ------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": {"optimizer": "cmeas"}}, "unknown optimizer 'cmeas': did you mean 'cmaes'"),
        ({"search": {"optimizer": "cmaes", "population": 1}}, "population"),
        ({"search": {"options": {"sgima": 1}}}, "sgima"),
        ({"search": {"seed": -1}}, "seed"),
        ({"space": "tise_by_depth"}, "unknown space 'tise_by_depth': did you mean 'ties_by_depth'"),
        ({"space": {"merge_method": "linear", "models": [{"model": "*"}]}}, "no holes"),
        ({"evaluate": {"items": {"per_generation": 0}}}, "per_generation"),
        ({"evaluate": {"items": {"search": 0.9}}}, "add up to at most 1"),
        ({"evaluate": {"items": {"race": 0.0}}}, "evaluate.items.race"),
        ({"evaluate": {"batch_size": 0}}, "batch_size"),
        ({"evaluate": {"tasks": [{"name": "stub_choice", "weight": -1}]}}, "weight"),
        ({"evaluate": {"tasks": [{"name": "stub_choice", "weight": 0}]}}, "weight"),
        ({"workers": {"gpus": -1}}, "gpus"),
    ],
)
def test_a_study_that_cannot_work_is_refused_before_anything_is_spent(
    stub_workers: StubWorkers, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    stub_workers(broken=True)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        Study(StudyConfig.from_dict(stub_document(**sections), tmp_path), run)
    assert not run.exists()


def test_a_space_that_names_a_strange_model_is_refused(tmp_path: Path) -> None:
    space = {
        "merge_method": "linear",
        "models": [
            {"model": "one", "parameters": {"weight": {"low": 0, "high": 1}}},
            {"model": "stranger", "parameters": {"weight": 1.0}},
        ],
    }
    with pytest.raises(UserError, match="stranger, which is not among the study's models"):
        Study(stub_config(space=space), tmp_path / "run")


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 Σd² / (n (n² - 1)) = 1 - 6·4 / 60
    assert rank_correlation([(1, 20), (2, 10), (3, 40), (4, 30)]) == pytest.approx(0.6)
    assert rank_correlation([(1, 1), (2, 2), (3, 3)]) is None
    assert rank_correlation([(1, 5), (2, 5), (3, 5), (4, 5)]) is None


def test_a_soup_procedure_sees_the_same_items_throughout_and_ends_by_itself(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers()
    search = {"optimizer": "greedy_soup", "trials": 50, "population": None}
    study = Study(stub_config(space="global_linear", search=search), tmp_path / "run")
    study.optimize()
    record = study.record
    assert [len(g.trials) for g in record.generations.values()] == [2, 1]  # two alone, then both
    assert len({str(g.items) for g in record.generations.values()}) == 1
    assert record.search_ended is not None
    assert record.search_ended.reason == "the procedure is complete"


def test_an_optimizer_that_compares_generations_is_told_how_far_the_anchor_is_behind(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_workers()
    calls: list[Any] = []

    def tell(self: Any, points: Any, values: Any, scores: Any = None) -> None:
        calls.append((values, scores))
        real_tell(self, points, values, scores)

    real_tell = Optimizer.tell
    monkeypatch.setattr(GeneticAlgorithm, "tell", tell)
    search = {"optimizer": "genetic", "trials": 8}
    study = Study(stub_config(search=search), tmp_path / "run")
    study.optimize()
    generations = list(study.record.generations.values())
    assert len(calls) == len(generations) == 2
    for (values, scores), generation in zip(calls, generations, strict=True):
        assert values == [v - generation.reference for v in generation.fitness]  # type: ignore
        items = {task: list(ids) for task, ids in (generation.items or {}).items()}
        assert [{task: list(s) for task, s in of_point.items()} for of_point in scores] == [
            items
        ] * 4


# -- what should make one think --------------------------------------------------------------------


def test_a_smooth_score_that_ranks_unlike_the_metric_is_warned_about_once(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(contrary=True)
    Study(stub_config(), tmp_path / "run").optimize()
    assert all(event["correlation"] < 0.5 for event in events(tmp_path / "run", "told"))
    (warning,) = events(tmp_path / "run", "warning")
    assert warning["kind"] == "correlation"
    assert warning["generation"] == 0
    assert "rank correlation -" in warning["message"]
    replayed = record(tmp_path / "run")
    assert "smooth score ranks recipes differently from the metric" in status_text(replayed)
    assert "differently from the metric" in page(Run.read(tmp_path / "run"))


def test_a_smooth_score_that_ranks_as_the_metric_does_is_not_warned_about(tmp_path: Path) -> None:
    Study(stub_config(), tmp_path / "run").optimize()
    assert not events(tmp_path / "run", "warning")


def test_answers_that_were_cut_are_shown_beside_the_score(
    stub_workers: StubWorkers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub_workers(cut=0.4)
    config = stub_config(evaluate={"fitness": "metric"})
    with Progress(config) as progress:
        Study(config, tmp_path / "run", progress).optimize(8)
    addresses = re.findall(
        r"over the best anchor\), trial \d+: ([\d.]+) % of answers cut, \1 % not found",
        capsys.readouterr().out,
    )
    assert len(addresses) == 2
    assert all(0 < float(share) < 80 for share in addresses)
    assert re.search(r"leader .*% of answers cut", status_text(record(tmp_path / "run")))


# -- looks at the held-out items -------------------------------------------------------------------


def test_another_winner_after_more_search_is_judged_more_strictly_and_the_same_one_is_not(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(signal=0.3)
    run = tmp_path / "run"
    for trials in (8, 16, 24, 32, 40):
        go(run, search={"trials": trials})
    digests: list[str] = []
    for event in events(run, "verdict"):
        winner = event["race_winner"]
        if winner["kind"] == "trial":
            if winner["digest"] not in digests:
                digests.append(winner["digest"])
            look = digests.index(winner["digest"]) + 1
            assert event["look"] == look
            assert event["confidence"] == pytest.approx(1 - 0.05 / max(1, look * (look - 1)))
    assert len(digests) > 1  # or nothing was tested


def test_a_driver_loads_none_of_its_workers_libraries(tmp_path: Path) -> None:
    python = small_study.PYTHON
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.study.small_study import stub_config, stub_executable\n"
        "from evomerge.study.study import Study\n"
        f"run = Path({str(tmp_path)!r})\n"
        "sys.executable = stub_executable(run)\n"
        "Study(stub_config(search={'trials': 4}), run / 'run').confirm(progress=False)\n"
        "print(*sorted({'transformers', 'lm_eval', 'datasets', 'ray'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [python, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
