"""A study as a whole, with stub workers, whose scores follow from the recipes' numbers."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.cli.display.progress import Progress
from evomerge.core.errors import UserError
from evomerge.optimizers import GeneticAlgorithm, Optimizer
from evomerge.recipe.recipe import Recipe
from evomerge.report import summary
from evomerge.report.page.page import page
from evomerge.report.run import Run
from evomerge.report.status import status_text
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import parse_all, to_json
from evomerge.study.journal.record import Record
from evomerge.study.statistics.correlation import rank_correlation
from evomerge.study.study import JOURNAL, Study
from evomerge.study.workers import scheduler
from tests.study.small_study import (
    StubWorkers,
    events,
    paid,
    stub_config,
    stub_document,
    substance,
)
from tests.study.stub_worker import name_of

pytestmark = pytest.mark.usefixtures("stub_workers")


def go(run: Path, **sections: Any) -> dict[str, Any]:
    """Run a stub study to its end; returns its verdict."""
    return to_json(Study(stub_config(**sections), run).confirm())


def record(run: Path) -> Record:
    return Record.from_events(parse_all(events(run)))


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


def test_the_three_pools_share_no_item_and_every_phase_keeps_to_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run)
    pools = {
        pool: {(task, i) for task, ids in items.items() for i in ids}
        for pool, items in events(run, "study")[0]["pools"].items()
    }
    assert len(set.union(*pools.values())) == sum(map(len, pools.values()))
    allowed = {"anchors": "search", "search": "search", "race": "race", "verdict": "holdout"}
    for event in events(run, "outcomes"):
        assert {(row[0], row[1]) for row in event["rows"]} <= pools[allowed[event["phase"]]]
    assert {event["phase"] for event in events(run, "outcomes")} == set(allowed)


def test_candidates_of_a_generation_see_the_same_items_and_generations_other_ones(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    go(run)
    asks = [event for event in events(run, "asked") if event["trials"][0]["generation"] is not None]
    seen = []
    for ask in asks:
        items = {(task, i) for task, ids in ask["items"].items() for i in ids}
        seen.append(frozenset(items))
        for trial in ask["trials"]:
            scored = {
                (row[0], row[1])
                for event in events(run, "outcomes")
                if event["digest"] == trial["digest"] and event["mode"] == "smooth"
                for row in event["rows"]
            }
            assert scored == items
    assert len(seen) == 4
    assert len(set(seen)) == 4


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


# -- failures --------------------------------------------------------------------------------------


def test_failed_trials_have_no_fitness_and_the_search_goes_on(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="non-finite", fail_above=0.8)
    run = tmp_path / "run"
    verdict = go(run, search={"trials": 24})
    failed = {event["trial"] for event in events(run, "failed")}
    assert failed
    assert {event["kind"] for event in events(run, "failed")} == {"non-finite"}
    fitness_told = {
        n: f for e in events(run, "told") for n, f in zip(e["trials"], e["fitness"], strict=True)
    }
    assert len(fitness_told) == 24
    assert {n for n, fitness in fitness_told.items() if fitness is None} == failed & set(
        fitness_told
    )
    assert any(fitness is not None for fitness in fitness_told.values())
    status = record(run).status()
    assert status["trials"]["failed"] == len(failed)
    assert verdict["winner"]["trial"] not in failed


def test_three_generations_without_a_score_end_with_one_clear_line(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(fail="task")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"every trial of three generations failed.*told to fail"):
        go(run)
    assert len(events(run, "told")) == 3
    assert events(run, "told")[-1]["fitness"] == [None] * 4


def test_workers_that_cannot_start_end_with_one_clear_line(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(broken=True)
    with pytest.raises(UserError, match=r"exit code 1.*workers\.log"):
        go(tmp_path / "run")


def test_equal_recipes_that_fail_fail_alike_on_resume(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "space": {
            "merge_method": "task_arithmetic",
            "models": [
                {"model": "*", "parameters": {"weight": {"choice": [[0.3, 1.2], [0.9, 0.9]]}}}
            ],
        },
        "search": {"optimizer": "random", "trials": 8},
    }
    stub_workers(fail="infrastructure", fail_above=0.8)
    run = tmp_path / "run"
    go(run, **sections)
    # other work went well meanwhile, so it is the recipe that ends workers
    assert {event["kind"] for event in events(run, "failed")} == {"crash"}
    assert {event["kind"] for event in events(run, "warning")} == {"worker lost"}
    feedback = events(run, "told")
    assert any(None in event["fitness"] for event in feedback)
    stub_workers()  # now it would not fail
    go(run, **{**sections, "search": {"optimizer": "random", "trials": 12}})
    again = events(run, "told")
    assert [event["fitness"] for event in again[: len(feedback)]] == [
        e["fitness"] for e in feedback
    ]
    early = {trial for event in feedback for trial in event["trials"]}
    searched = [e for e in events(run, "outcomes") if e["trial"] in early and e["mode"] == "smooth"]
    again = [e for e in searched if e["time"] > feedback[-1]["time"]]
    assert not [event for event in again if event["phase"] == "search"]


def test_workers_lost_whatever_they_do_say_nothing_of_a_trial_which_is_tried_again_on_resume(
    stub_workers: StubWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    go(whole)
    monkeypatch.setattr(scheduler.time, "sleep", lambda _seconds: None)
    stub_workers(lost_after=[tmp_path / "count", 60])  # then every request ends its worker
    with pytest.raises(UserError, match=r"exit code 9"):
        go(run)
    assert events(run, "outcomes")
    assert not events(run, "failed")
    stub_workers()
    go(run)
    said = substance(run)
    said.pop("warning", None)
    assert said == substance(whole)


def test_stragglers_are_done_twice_which_changes_nothing(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    Study(stub_config(), tmp_path / "whole").optimize(8)
    stub_workers(slow=[tmp_path / "marks", 0.05, 0.5])
    Study(stub_config(workers={"count": 3}), tmp_path / "run").optimize(8)
    assert substance(tmp_path / "run") == substance(tmp_path / "whole")
    assert set(paid(tmp_path / "run").values()) == {1}


def test_two_answers_that_differ_are_warned_about(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    stub_workers(slow=[tmp_path / "marks", 0.05, 0.5], differ=True)
    Study(stub_config(workers={"count": 3}), tmp_path / "run").optimize(8)
    warnings = events(tmp_path / "run", "warning")
    assert {warning["kind"] for warning in warnings} == {"disagreement"}
    assert "scored the same items and 1 items differ" in warnings[0]["message"]
    assert set(paid(tmp_path / "run").values()) == {1}


def test_an_export_that_is_not_what_was_scored_is_refused(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(wrong_export=True)
    with pytest.raises(RuntimeError, match="not those that were scored"):
        go(tmp_path / "run")
    assert not events(tmp_path / "run", "exported")


# -- resuming --------------------------------------------------------------------------------------


def test_a_finished_study_returns_its_verdict_at_once_without_workers(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = go(run)
    size = len(events(run))
    stub_workers(broken=True)
    assert go(run) == first
    assert [event["event"] for event in events(run)[size:]] == ["opened"]


def test_more_trials_go_on_where_a_finished_study_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 8})
    first = [event["trials"] for event in events(run, "asked")]
    go(run, search={"trials": 24})
    again = [event["trials"] for event in events(run, "asked")]
    assert again[: len(first)] == first
    at_once = tmp_path / "at-once"
    go(at_once, search={"trials": 24})

    def points(folder: Path) -> list[Any]:
        return [
            (trial["generation"], trial["index"], trial["point"])
            for event in events(folder, "asked")
            for trial in event["trials"]
            if trial["kind"] == "trial"
        ]

    assert points(run) == points(at_once)
    assert len(points(run)) == 24
    assert [e["fitness"] for e in events(run, "told")] == [
        e["fitness"] for e in events(at_once, "told")
    ]
    assert set(paid(run).values()) == {1}
    verdicts = [json.loads((folder / "verdict.json").read_text()) for folder in (run, at_once)]
    assert verdicts[0]["winner"]["digest"] == verdicts[1]["winner"]["digest"]
    assert verdicts[0]["improvement_shown"] == verdicts[1]["improvement_shown"]


def test_more_trials_that_change_nothing_are_done_too_even_if_killed_before_the_verdict(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    first = go(run, search={"trials": 16})
    more = {"trials": 20}  # one generation more
    again = go(run, search=more)
    assert Record.from_events(parse_all(events(run))).phase == "done"
    assert summary(Record.from_events(parse_all(events(run))))["wanted"] == 20
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    ended = max(i for i, line in enumerate(lines) if b'"search_ended"' in line)
    journal.write_bytes(b"".join(lines[: ended + 1]))
    assert Record.from_events(parse_all(events(run))).phase != "done"
    assert go(run, search=more) == again
    assert Record.from_events(parse_all(events(run))).phase == "done"
    assert first.keys() == again.keys()


def test_fewer_trials_leave_a_finished_study_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert go(run, search={"trials": 16}) == go(run, search={"trials": 4})


def test_a_resumed_study_may_differ_in_resources_and_output(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = go(run, output={"save_model": False})
    assert not (run / "best" / "model").exists()
    assert first["reproduce"] is None  # there is no model to run it with
    second = go(run, workers={"count": 1, "threads": 2}, output={"save_model": True})
    assert (run / "best" / "model").is_dir()
    assert f"pretrained={run / 'best' / 'model'}," in second["reproduce"]
    assert {
        **first,
        "reproduce": second["reproduce"],
    } == second  # no command for a model that is not there


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"search": {"seed": 2}}, "search.seed was 1, now 2"),
        ({"search": {"population": 5}}, "search.population was 4, now 5"),
        ({"evaluate": {"items": {"per_generation": 11}}}, "per_generation was 12, now 11"),
        ({"models": ["one", "three"]}, r"study\.models\[1\] was two, now three"),
        ({"output": {"dtype": "float32"}}, "output.dtype was bfloat16, now float32"),
    ],
)
def test_another_study_in_the_same_folder_is_refused_and_the_key_named(
    stub_workers: StubWorkers, tmp_path: Path, sections: dict[str, Any], key: str
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    stub_workers(broken=True)  # told before any worker is needed
    for trials in (4, 8):
        changed = stub_config(**sections)
        search = dataclasses.replace(changed.search, trials=trials)
        with pytest.raises(UserError, match=key):
            Study(dataclasses.replace(changed, search=search), run).confirm()


def test_changed_weights_of_a_parent_are_refused_and_the_model_named(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    stub_workers(fingerprint="changed", fingerprint_of="two")
    with pytest.raises(UserError, match=r"a parent's weights changed.*two was two, now twochanged"):
        go(run, search={"trials": 8})
    stub_workers()
    go(run, search={"trials": 8})


def test_a_journal_of_another_optimizer_version_is_refused_with_the_trial_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 8})
    from evomerge.optimizers.evolution.catcma import CatCma

    ask = CatCma.ask
    monkeypatch.setattr(CatCma, "ask", lambda self: ask(self)[::-1])
    with pytest.raises(UserError, match="generation 0, trial 0 is not the recipe in the journal"):
        go(run, search={"trials": 12})


def test_a_torn_tail_is_cut_off_and_a_damaged_journal_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    whole = substance(run)
    journal = run / JOURNAL
    data = journal.read_bytes()
    lines = data.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    go(run, search={"trials": 4})
    assert substance(run) == whole
    journal.write_bytes(data[:500] + b"#" + data[501:])
    with pytest.raises(UserError, match=r"journal\.log is damaged at byte"):
        go(run, search={"trials": 4})
    assert journal.read_bytes() == data[:500] + b"#" + data[501:]


def test_two_drivers_at_once_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    refusals = []

    def second(*_: Any) -> None:
        if not refusals:
            with pytest.raises(UserError, match="in use by process") as caught:
                go(run)
            refusals.append(str(caught.value))

    Study(stub_config(), run, second).confirm()
    assert refusals
    assert set(paid(run).values()) == {1}


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


def test_documents_that_belong_together_are_in_one_pool_and_in_the_journal(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    stub_workers(shared=20)  # both tasks have the first twenty documents
    run = tmp_path / "run"
    go(run, search={"trials": 4})
    pools, clusters = record(run).pools, record(run).clusters
    for pool in ("race", "holdout"):
        both = [i for i in pools[pool]["stub_choice"] if i < 20]
        assert both
        assert sorted(both) == sorted(i for i in pools[pool]["stub_write"] if i < 20)
        for i in both:
            assert clusters["stub_choice"][i] == clusters["stub_write"][i]
    assert {i < 20 for ids in clusters.values() for i in ids} == {True}
    comparison = record(run).verdict.comparisons[0]  # type: ignore[union-attr]
    n_items = sum(map(len, pools["holdout"].values()))
    twice = sum(i < 20 for i in pools["holdout"]["stub_choice"])
    assert (comparison.items, comparison.units) == (n_items, n_items - twice)


# -- what other runs have paid for -----------------------------------------------------------------


def test_outcomes_of_another_run_are_copied_and_not_scored_again(
    stub_workers: StubWorkers, tmp_path: Path
) -> None:
    first, log = tmp_path / "first", tmp_path / "log"
    verdict = go(first)
    stub_workers(log=log)
    again = Study(stub_config(), tmp_path / "again", reuse=[first])
    assert {**to_json(again.confirm()), "reproduce": ""} == {**verdict, "reproduce": ""}
    assert not log.exists()  # nothing was evaluated
    replayed = again.record
    assert (replayed.item_evaluations, replayed.reused) == (0, record(first).item_evaluations)
    assert substance(tmp_path / "again")["outcomes"] == substance(first)["outcomes"]
    # the copy stands alone, and other trials are paid for as ever
    shutil.rmtree(first)
    Study(stub_config(search={"trials": 20}), tmp_path / "again").confirm()
    assert again.record.item_evaluations > 0
    assert "taken from other runs" in status_text(again.record)
    assert "taken from other runs" in page(Run.read(tmp_path / "again"))


def test_only_items_that_another_run_has_are_taken_from_it(tmp_path: Path) -> None:
    go(tmp_path / "first", search={"trials": 4})
    Study(stub_config(), tmp_path / "whole").optimize()
    Study(stub_config(), tmp_path / "part", reuse=[tmp_path / "first"]).optimize()
    assert substance(tmp_path / "part") == substance(tmp_path / "whole")
    replayed = record(tmp_path / "part")
    assert replayed.reused
    assert (
        replayed.reused + replayed.item_evaluations == record(tmp_path / "whole").item_evaluations
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"fingerprint": "x", "fingerprint_of": "two"},
            "expected the same parents, but two differ",
        ),
        ({"protocol": "another"}, "expected the same evaluation"),
    ],
)
def test_another_run_with_other_parents_or_tasks_is_refused(
    stub_workers: StubWorkers, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    stub_workers(**settings)
    Study(stub_config(), tmp_path / "first").optimize(4)
    stub_workers()
    with pytest.raises(UserError, match=f"--reuse .*first: {message}"):
        Study(stub_config(), tmp_path / "again", reuse=[tmp_path / "first"]).optimize(4)
    assert not events(tmp_path / "again", "outcomes")
    with pytest.raises(UserError, match="cannot read journal"):
        Study(stub_config(), tmp_path / "again", reuse=[tmp_path / "nowhere"]).optimize(4)


# -- pools given as tasks --------------------------------------------------------------------------

APART: dict[str, Any] = {
    "tasks": ["stub_choice", "stub_write", "stub_exam"],
    "items": {
        "search_tasks": ["stub_choice"],
        "race_tasks": ["stub_write"],
        "holdout_tasks": ["stub_exam"],
    },
}


def test_pools_may_be_tasks_of_their_own(stub_workers: StubWorkers, tmp_path: Path) -> None:
    stub_workers(documents=200)
    run = tmp_path / "run"
    verdict = go(run, evaluate=APART, search={"trials": 24})
    seen: dict[str, set[str]] = {}
    for event in events(run, "outcomes"):
        seen.setdefault(event["phase"], set()).update(row[0] for row in event["rows"])
    assert seen == {
        "anchors": {"stub_choice"},
        "search": {"stub_choice"},
        "race": {"stub_write"},
        "verdict": {"stub_exam"},
    }
    assert all(scores.keys() == {"stub_exam"} for scores in verdict["scores"].values())
    assert all(comparison["items"] == 200 for comparison in verdict["comparisons"])
    text = page(Run.read(run))
    assert "stub_exam" in text
    assert "best anchor" in status_text(record(run))
    assert len(em.load_study(run).trials_dataframe()) == record(run).next_number


def test_tasks_that_are_in_no_list_are_split_by_the_shares(tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, evaluate={**APART, "items": {"holdout_tasks": ["stub_exam"]}}, search={"trials": 4})
    pools = events(run, "study")[0]["pools"]
    assert {pool: set(items) for pool, items in pools.items()} == {
        "search": {"stub_choice", "stub_write"},
        "race": {"stub_choice", "stub_write"},
        "holdout": {"stub_choice", "stub_write", "stub_exam"},
    }


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (
            {},
            {"shared": 7},
            r"stub_write is for the pool 'race' and stub_choice for 'search', but"
            r" they have 7 documents in common",
        ),
        (
            {"race_tasks": ["stub_wirte"]},
            {},
            r"race_tasks: unknown task 'stub_wirte': did you mean",
        ),
    ],
)
def test_pools_that_overlap_or_are_misspelt_are_refused_before_anything_is_spent(
    stub_workers: StubWorkers,
    tmp_path: Path,
    items: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    stub_workers(**settings)
    evaluate = {**APART, "items": {**APART["items"], **items}}
    with pytest.raises(UserError, match=message):
        go(tmp_path / "run", evaluate=evaluate)
    assert not events(tmp_path / "run", "study")


def test_a_task_in_two_lists_and_constraints_over_such_pools_are_refused() -> None:
    twice = {**APART, "items": {"race_tasks": ["stub_exam"], "holdout_tasks": ["stub_exam"]}}
    with pytest.raises(UserError, match="task stub_exam is listed twice"):
        stub_config(evaluate=twice)
    with pytest.raises(UserError, match="no task may belong to one pool alone"):
        stub_config(evaluate=APART, search={"constraints": ["stub_choice >= base"]})
