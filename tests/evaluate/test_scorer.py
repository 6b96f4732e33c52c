from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.generation.decode import Answer, Decoder
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Forward, Likelihoods
from evomerge.evaluate.outcomes import NonFiniteError, ScoreKind
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.scoring.smooth import smooth_answers
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.evaluate.tasks.request import TaskRequest
from evomerge.evaluate.token_requests import Pair
from tests.evaluate.evaluation_bench import (
    CHOICE,
    GENERATE,
    TASKS,
    Bench,
    answers,
    make_model,
    metrics,
    write_task,
)

SCORE_KINDS: tuple[ScoreKind, ...] = ("smooth", "metric")


@pytest.fixture(scope="module")
def harness(bench: Bench) -> Harness:
    return Harness.load(list(TASKS), [bench.folder], tokenizer=bench.tokenizer)


def rows(scorer: Scorer, items: Any, score_kind: ScoreKind) -> list:
    return [outcome.as_written() for outcome in scorer.score(items, score_kind)]


def golds_of(bench: Bench, harness: Harness, items: Any) -> tuple[list[Pair], Likelihoods]:
    """The right answers of generation items as pairs, and their likelihoods in plain rows."""
    stock = stock_model(bench.model, bench.tokenizer, 64)
    encoder = Encoder(stock, harness)
    pairs = [pair for task, ids in items.items() for i in ids for pair in encoder.golds((task, i))]
    return pairs, Forward(bench.model)(make_batches(pairs, 64, stock.max_length, "cpu"), pairs)


def only_for_lm_eval(model: Any) -> Any:
    """The same model with a setting that our loop does not know, and that changes no answer."""
    copied = copy.deepcopy(model)
    copied.generation_config.suppress_tokens = []
    return copied


@pytest.mark.parametrize("score_kind", SCORE_KINDS)
def test_scoring_again_gives_the_same_bits(
    bench: Bench, harness: Harness, score_kind: ScoreKind
) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness)
    first = rows(scorer, harness.items, score_kind)
    assert first == rows(scorer, harness.items, score_kind)
    assert first == rows(Scorer(bench.model, bench.tokenizer, harness), harness.items, score_kind)
    assert scorer.seconds > 0


@pytest.mark.parametrize("score_kind", SCORE_KINDS)
def test_outcomes_come_in_the_order_asked_and_do_not_depend_on_it(
    bench: Bench, harness: Harness, score_kind: ScoreKind
) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness, batch_size=7)
    items = {"write": [3, 1, 20], "choice": [5, 0], "likelihood": [2]}
    backward = {name: ids[::-1] for name, ids in reversed(items.items())}
    outcomes = scorer.score(items, score_kind)
    assert [(one.task, one.doc_id) for one in outcomes] == [
        (name, doc_id) for name, ids in items.items() for doc_id in ids
    ]
    assert sorted(outcomes, key=str) == sorted(scorer.score(backward, score_kind), key=str)


def test_smooth_scores_lie_in_the_unit_interval_and_cost_no_decoding(
    bench: Bench, harness: Harness
) -> None:
    class Dear(Decoder):
        def __call__(self, prompts: Any) -> list[Answer]:
            return [1 / 0 for _ in prompts]

    decoder = Dear(bench.model, bench.tokenizer, batch_size=64)
    scorer = Scorer(bench.model, bench.tokenizer, harness, decoder=decoder)
    outcomes = scorer.score(harness.items, "smooth")
    with pytest.raises(ZeroDivisionError):
        scorer.score({"write": [0]}, "metric")
    for outcome in outcomes:
        assert outcome.smooth is not None
        assert 0.0 <= outcome.smooth <= 1.0
        generates = harness.output_type(outcome.task) == "generate_until"
        assert (outcome.metric is None) == generates
    assert len({outcome.smooth for outcome in outcomes}) > 100


@pytest.mark.parametrize(
    "task", ["choice", "choice_norm", "choice_shots", "choice_mutual", "choice_mutual,acc"]
)
def test_a_smooth_choice_is_above_a_half_where_the_metric_is_one(
    bench: Bench, harness: Harness, task: str
) -> None:
    task, _, metric = task.partition(",")
    if metric:
        harness = Harness.load([TaskRequest(task, metric)], [bench.folder])
    outcomes = Scorer(bench.model, bench.tokenizer, harness).score(
        {task: harness.items[task]}, "smooth"
    )
    for outcome in outcomes:
        assert outcome.smooth is not None
        assert (outcome.smooth > 0.5) == (outcome.metric == 1.0)


def test_the_best_of_several_right_answers_counts(llama: Bench) -> None:
    harness = Harness.load(["write_any"], [llama.folder])
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    outcomes = scorer.score(harness.items, "smooth")
    pairs, likelihoods = golds_of(llama, harness, harness.items)
    scored = list(zip(pairs, smooth_answers(likelihoods), strict=True))
    assert len(scored) > len(outcomes)
    for outcome in outcomes:
        several = [score for pair, score in scored if pair.owner[1] == outcome.doc_id]
        assert outcome.smooth == pytest.approx(max(several), abs=1e-5)


def test_a_task_whose_metric_is_more_than_its_likeliest_choice_is_graded_by_lm_eval(
    llama: Bench, tmp_path: Path
) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    several = CHOICE.replace("doc_to_target: gold", 'doc_to_target: "{{[gold, 0]}}"')
    write_task(tmp_path, "several", several + metrics("acc"))
    write_task(tmp_path, "exact", CHOICE + metrics("exact_match"))
    write_task(tmp_path, "plain", CHOICE + metrics("acc_norm"))
    harness = Harness.load(["several", "exact", "plain"], [tmp_path])
    assert [harness.chooses(name) for name in harness.items] == [False, False, True]
    outcomes = Scorer(llama.model, llama.tokenizer, harness).score(harness.items, "smooth")
    right = {o.doc_id: o for o in outcomes if o.task == "several"}
    assert {o.metric for o in right.values()} == {0.0, 1.0}
    assert all((o.smooth or 0) > 0.5 or o.metric == 0.0 for o in right.values())


def test_an_answer_whose_every_margin_is_positive_is_what_generation_gives(
    bench: Bench, harness: Harness
) -> None:
    items = {"write": harness.items["write"], "write_digit": harness.items["write_digit"]}
    pairs, golds = golds_of(bench, harness, items)
    whole = [pair.owner for pair, gold in zip(pairs, golds, strict=True) if gold.is_greedy]
    ended = {pair.owner for pair, gold in zip(pairs, golds, strict=True) if gold.margins.min() > 0}
    right = 0
    for item, answer in zip(whole, answers(bench, harness, whole), strict=True):
        _, gold = harness.golds(*item)[0]
        assert answer.text.startswith(gold)
        if item in ended:
            assert answer.text == gold
            right += 1
    assert whole
    assert right or bench.model.config.model_type == "gpt2"


def test_the_smooth_score_of_a_rolling_task_is_its_metric_turned_upwards(
    bench: Bench, harness: Harness
) -> None:
    outcomes = Scorer(bench.model, bench.tokenizer, harness).score({"rolling": [0, 1]}, "smooth")
    for outcome in outcomes:
        assert outcome.metric is not None
        assert outcome.smooth == pytest.approx(1 / (1 + outcome.metric))


def test_truncation_and_failed_extraction_are_recorded(bench: Bench, harness: Harness) -> None:
    scorer = Scorer(bench.model, bench.tokenizer, harness)
    outcomes = scorer.score({"write_digit": harness.items["write_digit"]}, "metric")
    assert {outcome.truncated for outcome in outcomes} == {True, False}
    assert {outcome.extracted for outcome in outcomes} == {True, False}
    assert all(outcome.extracted for outcome in outcomes if outcome.metric == 1.0)


def test_a_generation_task_without_a_gold_text_falls_back_to_its_metric(
    llama: Bench, tmp_path: Path
) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    write_task(tmp_path, "silent", GENERATE + 'doc_to_target: ""\n' + metrics("exact_match"))
    scorer = Scorer(llama.model, llama.tokenizer, Harness.load(["silent"], [tmp_path]))
    assert scorer.check() == [
        "task 'silent': no gold text to measure a likelihood of, so its smooth score is its metric"
    ]
    outcomes = scorer.score({"silent": [0, 1, 2]}, "smooth")
    assert all(outcome.smooth == outcome.metric for outcome in outcomes)


def test_a_task_that_samples_gives_the_same_every_time_and_leaves_the_generators_alone(
    llama: Bench, tmp_path: Path
) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    sampling = GENERATE.replace("do_sample: false", "do_sample: true\n  temperature: 2.0")
    write_task(
        tmp_path, "drawn", sampling + 'doc_to_target: "{{whole}}"\n' + metrics("exact_match")
    )
    harness = Harness.load(["drawn"], [tmp_path])
    state = torch.random.get_rng_state()
    items = [("drawn", i) for i in range(12)]
    first, second = answers(llama, harness, items), answers(llama, harness, items)
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())
    greedy = Harness.load(["write"], [llama.folder])
    assert first != answers(llama, greedy, [("write", i) for i in range(12)])


def test_a_model_that_only_lm_eval_can_decode_gets_the_same_outcomes(
    bench: Bench, harness: Harness
) -> None:
    items = {name: harness.items[name] for name in ("write", "write_digit", "choice")}
    ours = Scorer(bench.model, bench.tokenizer, harness, batch_size=6)
    theirs = Scorer(only_for_lm_eval(bench.model), bench.tokenizer, harness, batch_size=6)
    assert (ours.warnings, len(theirs.warnings)) == ([], 1)
    assert ours.composition(items, "metric") != theirs.composition(items, "metric")
    expected = [(one.metric, one.extracted) for one in ours.score(items, "metric")]
    assert [(one.metric, one.extracted) for one in theirs.score(items, "metric")] == expected
    assert theirs.seconds > 0
    with torch.no_grad():
        broken = make_model(bench.model.config.model_type, seed=3)
        broken.get_input_embeddings().weight.fill_(float("nan"))
    scorer = Scorer(only_for_lm_eval(broken), bench.tokenizer, harness)
    with pytest.raises(NonFiniteError, match="task 'write', document"):
        scorer.score({"write": [4]}, "metric")


def test_broken_weights_name_the_item(llama: Bench) -> None:
    harness = Harness.load(["choice", "write"], [llama.folder])
    model = make_model("llama", seed=3)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    scorer = Scorer(model, llama.tokenizer, harness)
    for score_kind in SCORE_KINDS:
        with pytest.raises(NonFiniteError, match=r"task '(choice|write)', document"):
            scorer.score({"choice": [4], "write": [4]}, score_kind)


def test_items_that_do_not_exist_are_refused(llama: Bench) -> None:
    harness = Harness.load(["choice"], [llama.folder])
    scorer = Scorer(llama.model, llama.tokenizer, harness)
    with pytest.raises(UserError, match="unknown task 'choise': did you mean 'choice'"):
        scorer.score({"choise": [0]}, "metric")
    with pytest.raises(UserError, match="expected documents 0 to 23 of task 'choice', but got 24"):
        scorer.score({"choice": [24]}, "metric")


def test_a_batch_of_nothing_is_refused(llama: Bench) -> None:
    harness = Harness.load(["choice"], [llama.folder])
    with pytest.raises(UserError, match="`batch_size` to be at least 1, but it is 0"):
        Scorer(llama.model, llama.tokenizer, harness, batch_size=0)


def test_an_answer_longer_than_the_model_is_refused(llama: Bench, tmp_path: Path) -> None:
    for name in ("documents.jsonl", "shots.jsonl"):
        (tmp_path / name).write_text((llama.folder / name).read_text())
    endless = GENERATE.replace("max_gen_toks: 12", "max_gen_toks: 500")
    write_task(tmp_path, "long", endless + 'doc_to_target: "x"\n' + metrics("exact_match"))
    scorer = Scorer(llama.model, llama.tokenizer, Harness.load(["long"], [tmp_path]))
    with pytest.raises(UserError, match="generates up to 500 tokens, but the model's whole length"):
        scorer.score({"long": [0]}, "metric")


def test_nothing_to_score_is_no_outcome(llama: Bench) -> None:
    harness = Harness.load([TaskRequest("choice")], [llama.folder])
    assert Scorer(llama.model, llama.tokenizer, harness).score({"choice": []}, "metric") == []


def test_an_end_token_that_the_vocabulary_lacks_is_no_end(llama: Bench) -> None:
    """OLMoE's and Qwen-VL's configs name one by default that a smaller vocabulary lacks."""
    harness = Harness.load(["write"], [llama.folder])
    model = make_model("llama", seed=1)
    expected = Scorer(model, llama.tokenizer, harness).score({"write": [0, 1]}, "smooth")
    model.generation_config.eos_token_id = [2, 50_279]
    assert Scorer(model, llama.tokenizer, harness).score({"write": [0, 1]}, "smooth") == expected
