"""A worker's requests are answered here; parents, live model and prepared tasks stay loaded.

A child process behind a pipe and a Ray actor run the same code. Errors are answers too, see
`Failure`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple, assert_never

import torch

from evomerge.calibration.rehearsal import rehearsed
from evomerge.calibration.requests import (
    Collect,
    Collected,
    Measure,
    Rehearse,
    Sample,
    Train,
    measured,
    sampled,
    trained,
)
from evomerge.calibration.statistics import Statistics
from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.compatible import (
    check_compatible,
    check_same_kind,
    check_same_tokens,
)
from evomerge.checkpoint.files.folder import generation_digest
from evomerge.checkpoint.files.remote_code import allowed_code
from evomerge.core import faults
from evomerge.evaluate.arithmetic import slow_arithmetic
from evomerge.evaluate.model import is_causal
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.streamed.streamed import Streamed
from evomerge.merge.build import fill, live_digest, live_tensors
from evomerge.merge.gradient.segment import alone
from evomerge.merge.parents.memo import Memo
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.parents.parents import KeptMerges, Parents
from evomerge.merge.plan.in_place import check_in_place
from evomerge.merge.plan.plan import MergePlan
from evomerge.merge.plan.plan import plan as make_plan
from evomerge.merge.plan.unseen import unseen_towers
from evomerge.merge.streamed import StreamedMerge
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.answers.exports import export, export_adapter, translate
from evomerge.study.workers.answers.streaming import refuse_gradient, refuse_recipe, refuse_study
from evomerge.study.workers.answers.together import evaluate_together, suits_together
from evomerge.study.workers.devices import check_room, devices, keeps_parents, memo_budget
from evomerge.study.workers.failures import (
    failure_of,
    wrong_answers_for_errors,
)
from evomerge.study.workers.gradient import gradient
from evomerge.study.workers.own_config import OwnModels
from evomerge.study.workers.parent_watch import ParentWatch
from evomerge.study.workers.requests import (
    Answer,
    Describe,
    Description,
    Evaluate,
    EvaluateTogether,
    Export,
    ExportAdapter,
    Gradient,
    Gradients,
    Request,
    Scores,
    Show,
    Shown,
    Success,
    SuitTogether,
    Translate,
)
from evomerge.study.workers.scoring import Scoring


class Built(NamedTuple):
    """A live model that holds a candidate, its scorer, what was merged, and the seconds it took.

    Where it is streamed: what streams it, and what makes its weights.
    """

    model: Any
    scorer: Scorer
    plan: MergePlan
    parents: Parents
    seconds: float
    streamed: Streamed | None = None
    source: StreamedMerge | None = None


class Evaluator:
    """Builds candidates in place and scores them; all that does not change is made once."""

    def __init__(
        self,
        config: StudyConfig,
        shared: Evaluator | None = None,
        tokenizer_of: str | None = None,
    ):
        """Open the parents, or take those of another evaluator.

        Args:
            config: The study; its base lends the live model's config.
            shared: Whose parents are used too.
            tokenizer_of: The model whose tokenizer is used; without it the base's.
        """
        self.config = config
        self.tokenizer_of = tokenizer_of or config.base_model
        torch.set_num_threads(config.workers.threads)
        self.devices = devices(config.workers)
        self.device = self.devices[0]
        models = [config.base_model, *config.models]
        self.parents: Parents = shared.parents if shared else open_parents(models, self.device)
        if shared is None:
            self.parents.stay = keeps_parents(config, self.parents.opened, self.devices)
        self.watch: ParentWatch = shared.watch if shared else ParentWatch(self.parents)
        base, allowed = self.parents.checkpoints[config.base_model], config.trust_remote_code
        self._model_code = {} if allowed is None else allowed_code(base.folder, allowed)
        code = bool(self._model_code)
        self.scoring = Scoring(config, self.parents, self.devices, code, self.tokenizer_of)
        self.statistics: Statistics = shared.statistics if shared else Statistics(self.parents)
        if shared is None:
            self.parents.provider, self.parents.kept = self.statistics, KeptMerges()
            self.parents.memo = Memo(memo_budget(config, self.parents.opened, self.devices))
        self.own_models: OwnModels = (
            shared.own_models if shared else OwnModels(config, self.parents.opened)
        )

    def handle(self, request: Request) -> Answer:
        """Answer one request; never raises."""
        started = time.perf_counter()
        try:
            answer = self._answer(request)
        except Exception as error:  # a task's own code may raise anything
            failure = failure_of(error)
            if failure.kind == "oom" and torch.cuda.is_available():
                torch.cuda.empty_cache()
            return failure
        total = time.perf_counter() - started
        return replace(answer, seconds={**answer.seconds, "total": total})

    def _answer(self, request: Request) -> Success:
        match request:
            case Describe():
                return self._describe(request)
            case Evaluate():
                return self.evaluate(request)
            case Gradient():
                return self._gradient(request)
            case Show():
                return self._show(request)
            case EvaluateTogether():
                return evaluate_together(request, self)
            case SuitTogether():
                return suits_together(request, self)
            case Export():
                self.watch.check(request.parents)
                return export(request, self.parents)
            case ExportAdapter():
                self.watch.check(request.parents)
                return export_adapter(request, self.parents, self.config.base_model)
            case Translate():
                return translate(request, self.parents)
            case Collect():
                return Collected(self.scoring.scorer().right_answers(request.items))
            case Measure():
                self.watch.check(request.parents)
                return measured(self.statistics, request)
            case Sample():
                return sampled(self.statistics, request)
            case Rehearse():
                recipe = Recipe.from_dict(request.recipe)
                return rehearsed(self.statistics, recipe, with_merges(recipe, self.parents))
            case Train():
                self.watch.check(request.parents)
                recipe = Recipe.from_dict(request.recipe)
                return trained(self.statistics, recipe, with_merges(recipe, self.parents))
            case _:
                assert_never(request)

    def _describe(self, request: Describe) -> Description:
        """Check parents and tasks, and describe them."""
        base = self.parents.checkpoints[self.config.base_model]
        parameters = sum(info.numel for info in base.tensors.values())
        for checkpoint in self.parents.checkpoints.values():
            check_same_kind(base, checkpoint)
            check_compatible(base, checkpoint)
            check_same_tokens(base, checkpoint)
        if request.recipe is not None:
            recipe = Recipe.from_dict(request.recipe)
            checkpoints = with_merges(recipe, self.parents).checkpoints
            chat = self.config.evaluate.apply_chat_template
            check_in_place(recipe, checkpoints, chat=chat)
            plan = make_plan(recipe, checkpoints)
            if self.scoring.is_streamed:
                refuse_study(self.config)
                refuse_recipe(recipe)
            else:
                check_room(plan.parameters, self.config.scored_in, self.devices)
                live_tensors(self.scoring.models.of(plan.config).model, plan)  # no gaps
            parameters = max(parameters, plan.parameters)
        # Making it decides the device of each parent's tensors, where there are several.
        model = self.scoring.models.home.model
        self.parents.check_finite()
        scorer = self.scoring.scorer(request.halvings)
        evaluation = self.scoring.harness.describe()
        evaluation["warnings"] = [
            *evaluation["warnings"],
            *(
                f"allowed model code: {file}, SHA-256 {digest[:16]}"
                for file, digest in self._model_code.items()
            ),
            *self.own_models.warnings(),
            *unseen_towers(request.recipe, base),
            *slow_arithmetic(model),
            *scorer.check(),
        ]
        if request.item_digests:
            evaluation["item_digests"] = self.scoring.harness.item_digests()
        evaluation["lm_eval_loads"] = is_causal(model.config)
        batches = None
        if request.batches is not None:
            mode, items = request.batches
            if self.scoring.harness.has(items):  # else the driver reports what differs
                batches = scorer.composition(items, mode)
        return Description(
            evaluation,
            fingerprints={name: c.fingerprint for name, c in self.parents.checkpoints.items()},
            parameters=parameters,
            layers=layer_count(base.config),
            device=", ".join(self.devices),
            batches=batches,
            stamp=self.watch.stamp,
            generation=generation_digest(base.folder),
            streamed=self.scoring.is_streamed,
        )

    def evaluate(self, request: Evaluate) -> Scores:
        """Build the recipe unless it is resident, and score the items."""
        faults.reach("worker.evaluate")
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other.evaluate(request)
        built: Built | None = None
        if request.ensemble is None:
            built = self.build(recipe, request.halvings, request.digest)
            scorer = built.scorer
        else:
            about = recipe.model_names, request.ensemble, request.halvings
            scorer = self.scoring.ensemble(*about)
        self.scoring.harness.errors.clear()
        outcomes: list[OutcomeRow] = []
        errors: list[list[Any]] = []
        batches: list[str] = []
        # Each in batches of its own.
        for shard, rows in zip(
            request.shards, scorer.score_shards(request.shards, request.mode), strict=True
        ):
            scored, missed = wrong_answers_for_errors(rows, self.scoring.harness, request.mode)
            outcomes += scored
            errors += missed
            batches.append(scorer.composition(shard, request.mode))
        seconds = {"build": 0.0, "forward": scorer.seconds}
        weights_digest = None
        if built is not None:
            waited = 0.0 if built.streamed is None else built.streamed.seconds
            seconds = {"build": built.seconds + waited, "forward": scorer.seconds - waited}
        if request.digest and built is not None:
            weights_digest = (
                live_digest(built.model, built.plan, built.parents)
                if built.source is None
                else built.source.digest()
            )
        return Scores(
            rows=[outcome.as_written() for outcome in outcomes],
            batches=batches,
            errors=errors,
            weights_digest=weights_digest,
            seconds=seconds,
        )

    def _gradient(self, request: Gradient) -> Gradients:
        """Build the recipe unless it is resident, and run the items forward and backward."""
        faults.reach("worker.gradient")
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other._gradient(request)
        if self.scoring.is_streamed:
            refuse_gradient()
        scorer = self.scoring.scorer(request.halvings)
        if request.loss == "dpo" and (new := scorer.without_reference(request.items)):
            base = alone(self.config.base_model, recipe)
            self.build(base, request.halvings).scorer.refer(new)
        built = self.build(recipe, request.halvings)
        computed = gradient(request, built.scorer, built.model, built.plan, built.parents)
        seconds = {"build": built.seconds, "forward": built.scorer.seconds}
        return computed.answer(request.loss, seconds)

    def build(self, recipe: Recipe, halvings: int, digest: bool = False) -> Built:
        """Write a recipe into the live model of its result's config, unless it is there.

        A streamed model is given what makes its weights; `digest` notes their digests on the way.
        """
        began = time.perf_counter()
        parents = with_merges(recipe, self.parents)
        plan = make_plan(recipe, parents.checkpoints)
        models = self.scoring.models
        live = models.of(plan.config)
        seconds = time.perf_counter() - began
        scorer = self.scoring.scorer(halvings, live)  # tries a new model out before it is filled
        began = time.perf_counter()
        source = None
        if live.streamed is not None:
            refuse_recipe(recipe)
            source = StreamedMerge(live.model, plan, parents, digest)
            live.streamed.source, live.streamed.seconds = source, 0.0
        elif models.resident != (live, recipe.digest):
            models.resident = None
            fill(live.model, plan, parents)
            models.resident = live, recipe.digest
        seconds += time.perf_counter() - began
        return Built(live.model, scorer, plan, parents, seconds, live.streamed, source)

    def _show(self, request: Show) -> Shown:
        """Build a recipe, and return what it answers beside what is right."""
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other._show(request)
        return Shown(self.build(recipe, request.halvings).scorer.written(request.items))
