"""Scores several sums of the same adapters side by side, where no weight has to be written for it.

Each recipe is a task-arithmetic merge of LoRA adapters on its own base, so that the live model
holds the base, and recipes differ in the weights of the adapters' factors. What is no such sum, or
breaks on the way, is built and scored by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evomerge.checkpoint.names import adapters_on
from evomerge.core import faults
from evomerge.evaluate.gradient.projection import layers_by_weight
from evomerge.evaluate.likelihood.agreement import CEILING, FLOOR
from evomerge.evaluate.likelihood.side_by_side import LayerSums, OtherRowsError, side_by_side
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.merge.gradient.low_rank import LowRank, low_rank_changes
from evomerge.merge.gradient.segment import alone
from evomerge.merge.plan.plan import MergePlan
from evomerge.merge.plan.plan import plan as make_plan
from evomerge.recipe.data import Entry
from evomerge.recipe.recipe import Recipe
from evomerge.study.workers.failures import failure_of, wrong_answers_for_errors
from evomerge.study.workers.requests import (
    Evaluate,
    EvaluateTogether,
    ScoresTogether,
    Suited,
    SuitTogether,
)

if TYPE_CHECKING:
    from evomerge.study.workers.evaluator import Evaluator

# Building a candidate reads and writes every weight besides its products, and costs at least twice
# what these do (SmolLM2-135M, 64 ranks: 5 times).
BUILDING = 2.0


class Sums:
    """Adapters' factors side by side, layer by layer, for all recipes of the same adapters."""

    def __init__(self, changes: Sequence[LowRank], layers: dict[int, torch.nn.Module]):
        by_tensor: dict[str, list[LowRank]] = {}
        for change in changes:
            by_tensor.setdefault(change.tensor, []).append(change)
        self._parts = []
        for tensor, parts in by_tensor.items():
            layer = layers[parts[0].weight.data_ptr()]
            left = torch.cat([part.factors.left for part in parts], dim=1)  # (rows, ranks)
            right = torch.cat([part.factors.right for part in parts])  # (ranks, columns)
            ranks = [part.factors.right.shape[0] for part in parts]
            self._parts.append((tensor, layer, left, right, [part.model for part in parts], ranks))

    @property
    def products(self) -> float:
        """Operations that writing the adapters' products into the weights takes, over 2."""
        return sum(float(left.shape[0]) * right.numel() for _, _, left, right, _, _ in self._parts)

    @property
    def per_token(self) -> float:
        """Operations that the factors take for each token, over 2."""
        return float(sum(left.numel() + right.numel() for _, _, left, right, _, _ in self._parts))

    def of(self, plans: Sequence[MergePlan]) -> list[LayerSums]:
        """Return what these candidates add to each layer."""
        weights = [_weights(plan) for plan in plans]
        sums = []
        for tensor, layer, left, right, models, ranks in self._parts:
            scales = torch.tensor(
                [
                    [
                        each[tensor, model]
                        for model, rank in zip(models, ranks, strict=True)
                        for _ in range(rank)
                    ]
                    for each in weights
                ],
                dtype=torch.float32,
            )  # (candidates, ranks)
            sums.append(LayerSums(layer, left, right, scales))
        return sums


def _weights(plan: MergePlan) -> dict[tuple[str, str], float]:
    """Return what each adapter's change of each tensor is multiplied by."""
    return {
        (job.name, ref.model): float(job.parameters["lambda"]) * float(weight)
        for job in plan.jobs
        for ref, weight in zip(job.models, job.parameters["weight"], strict=True)
    }


def sums_of(recipe: Recipe, worker: Evaluator) -> Sums | str:
    """Return the factors of a recipe's adapters, or why it is no sum of them."""
    models = [entry.model for entry in recipe.models]
    if recipe.base_model is None or not models or recipe.slices or recipe.merges:
        return "it is no merge of adapters on a base"
    if any(adapters_on(model, recipe.base_model) is None for model in models):
        return "its models are not all adapters on its base"
    if recipe.vocabulary is not None:
        return "it has a vocabulary of its own"
    if recipe.dtype != "float32":
        return f"it is computed in {recipe.dtype}: adapters are summed up in float32"
    if worker.scoring.is_streamed:
        return "candidates are streamed"
    if worker.own_models.evaluator_for(recipe, worker) is not None or len(worker.devices) > 1:
        return "it runs in a model of its own" if len(worker.devices) == 1 else "it is spread"
    plan = make_plan(recipe, worker.parents.checkpoints)
    changes = low_rank_changes(worker.scoring.models.home.model, plan, worker.parents)
    if changes is None:
        return "it is not task arithmetic of LoRA adapters alone"
    layers = layers_by_weight(worker.scoring.models.home.model)
    for change in changes:
        layer: Any = layers.get(change.weight.data_ptr())
        if layer is None or layer.weight.shape != change.weight.shape:
            return f"{change.tensor} is not the weight of one linear layer"
    return Sums(changes, layers)


def evaluate_together(request: EvaluateTogether, worker: Evaluator) -> ScoresTogether:
    """Score recipes side by side; those that cannot be are built one after the other."""
    faults.reach("worker.evaluate")
    worker.watch.check(request.parents)
    recipes = [Recipe.from_dict(recipe) for recipe in request.recipes]
    scorer = worker.scoring.scorer(request.halvings)
    rows: dict[int, list[OutcomeRow]] = {}
    errors: list[list[Any]] = []
    failures: list[tuple[int, str, str]] = []
    seconds = {"build": 0.0, "forward": 0.0}
    if scorer.goes_side_by_side(request.items, request.mode):
        for numbers in _by_adapters(recipes):
            first = recipes[numbers[0]]
            sums = sums_of(first, worker)
            if isinstance(sums, str):
                continue
            assert first.base_model is not None, "sums have a base"
            base = alone(first.base_model, first)
            seconds["build"] += worker.build(base, request.halvings).seconds
            planned = [(n, make_plan(recipes[n], worker.parents.checkpoints)) for n in numbers]
            numbers, plans = zip(*(one for one in planned if _is_sum(one[1])), strict=True)
            at_once = scorer.models_at_once(request.items, request.mode)
            for start in range(0, len(numbers), at_once):
                chunk = numbers[start : start + at_once]
                try:
                    with side_by_side(sums.of(plans[start : start + at_once])):
                        scored = _scored(request, worker, len(chunk))
                        for number, outcome in zip(chunk, scored, strict=True):
                            if outcome is not None:
                                rows[number], missed = outcome
                                errors += [[number, *one] for one in missed]
                except OtherRowsError:
                    break
                seconds["forward"] += scorer.seconds
    apart = [number for number in range(len(recipes)) if number not in rows]
    for number in apart:
        single = Evaluate(request.recipes[number], [request.items], request.mode)
        try:
            answer = worker.evaluate(replace(single, halvings=request.halvings))
        except Exception as error:  # a task's own code may raise anything
            failed = failure_of(error)
            if failed.kind in ("oom", "device", "study"):  # of the worker, not of the recipe
                raise
            failures.append((number, failed.kind, failed.message))
            continue
        rows[number] = [OutcomeRow(*row) for row in answer.rows]
        errors += [[number, *one] for one in answer.errors]
        seconds = {part: spent + answer.seconds[part] for part, spent in seconds.items()}
    listed = [rows.get(number, []) for number in range(len(recipes))]
    return ScoresTogether(
        rows=[row.as_written() for each in listed for row in each],
        batches=[scorer.composition(request.items, request.mode)],
        errors=errors,
        seconds=seconds,
        counts=[len(each) for each in listed],
        failures=failures,
        apart=apart,
    )


def _by_adapters(recipes: Sequence[Recipe]) -> list[Sequence[int]]:
    """Group the numbers of recipes that differ in nothing but parameters and blocks."""
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(recipes):
        models = tuple(Entry(entry.model) for entry in recipe.models)
        key = replace(recipe, models=models, parameters={}, blocks=()).digest
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _is_sum(plan: MergePlan) -> bool:
    """Return whether all that a merge of adapters does is to add up their changes."""
    return all(
        job.method == "task_arithmetic" and not job.parameters["normalize"] for job in plan.jobs
    )


def _scored(
    request: EvaluateTogether, worker: Evaluator, models: int
) -> Iterator[tuple[list[OutcomeRow], list[list[Any]]] | None]:
    """Yield each model's outcomes and what could not be graded; ``None`` for a broken one."""
    scorer = worker.scoring.scorer(request.halvings)
    worker.scoring.harness.errors.clear()
    for outcomes in scorer.score_side_by_side(request.items, request.mode, models):
        if outcomes is None:
            yield None
            continue
        yield wrong_answers_for_errors(outcomes, worker.scoring.harness, request.mode)
        worker.scoring.harness.errors.clear()


def suits_together(request: SuitTogether, worker: Evaluator) -> Suited:
    """Say whether recipes like this one are scored side by side.

    They have to be sums of adapters, give the scores of the built model, and have fewer tokens a
    candidate than those for which factors cost more than a candidate's weights do: about
    in * out / (in + out) of a layer, 300 in SmolLM2-135M and 2,000 in a model of 7B.
    """
    worker.watch.check(request.parents)
    recipe, scorer = Recipe.from_dict(request.recipe), worker.scoring.scorer()
    if not scorer.goes_side_by_side(request.items, request.mode):
        return Suited("items ask for more than likelihoods in plain batches", False)
    sums = sums_of(recipe, worker)
    if isinstance(sums, str):
        return Suited(sums, False)
    why_not = _differs(recipe, sums, request, worker)
    if why_not:
        return Suited(why_not, False)
    tokens = scorer.tokens(request.items, request.mode)
    most = BUILDING * sums.products / sums.per_token
    if tokens > most:
        return Suited(
            f"a candidate has {tokens:,} tokens: from {most:,.0f} on its weights are cheaper to "
            "build",
            True,
        )
    return Suited("", True)


def _differs(recipe: Recipe, sums: Sums, request: SuitTogether, worker: Evaluator) -> str:
    """Say how the scores of a recipe beside the base's differ from those that it has when built.

    The merge is not rounded for this: an adapter's rank is small beside what bfloat16 rounds off.
    """
    assert recipe.base_model is not None, "a sum has one"
    task, ids = next((task, ids) for task, ids in request.items.items() if ids)
    items = {task: list(ids)[:4]}
    scorer, exact = worker.scoring.scorer(), replace(recipe, out_dtype="float32")
    worker.build(exact, 0)
    built = scorer.score(items, request.mode)
    base = alone(recipe.base_model, exact)
    worker.build(base, 0)
    plans = [make_plan(one, worker.parents.checkpoints) for one in (recipe, recipe)]
    try:
        with side_by_side(sums.of(plans)):
            scored = [*scorer.score_side_by_side(items, request.mode, 2)]
    except OtherRowsError as error:
        return str(error)
    for rows in scored:
        if rows is None:
            return "its logits are not finite"
        pairs = [(a.smooth or 0.0, b.smooth or 0.0) for a, b in zip(rows, built, strict=True)]
        apart = float(np.mean([abs(a - b) for a, b in pairs]))
        limit = FLOOR.get(worker.scoring.models.home.model.dtype, CEILING) * 10
        if apart > limit:
            return f"scores differ by {apart:.4f} from those of the built model"
    return ""
