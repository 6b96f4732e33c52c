"""A worker's requests are answered here; parents, live model and prepared tasks stay loaded.

A child process behind a pipe and a Ray actor run the same code. Errors are answers too, see
`Failure`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, assert_never

import torch

from evomerge.calibration.requests import Collect, Collected, Measure, measured
from evomerge.calibration.statistics import Statistics
from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.compatible import (
    check_compatible,
    check_same_kind,
    check_same_tokens,
    unties,
)
from evomerge.checkpoint.files.folder import generation_digest
from evomerge.checkpoint.files.remote_code import allowed_code
from evomerge.core import faults
from evomerge.core.errors import UserError
from evomerge.evaluate.arithmetic import slow_arithmetic
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.model import is_causal, load_model, load_tokenizer, untie
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.merge.build import fill, live_digest, live_tensors, write
from evomerge.merge.gradient.segment import alone
from evomerge.merge.live_layout import views
from evomerge.merge.output.merged_adapter import NoAdapterError, write_merged_adapter
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.merge.parents.parents import KeptMerges, Parents
from evomerge.merge.plan.in_place import check_in_place
from evomerge.merge.plan.plan import MergePlan
from evomerge.merge.plan.plan import plan as make_plan
from evomerge.merge.plan.unseen import unseen_towers
from evomerge.recipe.mergekit import to_mergekit as mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.devices import devices
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
    Export,
    ExportAdapter,
    Exported,
    ExportedAdapter,
    Gradient,
    Gradients,
    Request,
    Scores,
    Show,
    Shown,
    Success,
    Translate,
    Translation,
)
from evomerge.study.workers.tasks import load_harness


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
        self.watch: ParentWatch = shared.watch if shared else ParentWatch(self.parents)
        base, allowed = self.parents.checkpoints[config.base_model], config.trust_remote_code
        self._model_code = {} if allowed is None else allowed_code(base.folder, allowed)
        self._resident: str | None = None  # digest of the recipe in the live model
        self._scorer: Scorer | None = None
        self._decoder: VllmDecoder | None = None
        self._model: Any = None
        self.statistics: Statistics = shared.statistics if shared else Statistics(self.parents)
        if shared is None:
            self.parents.provider, self.parents.kept = self.statistics, KeptMerges()
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
                return self._evaluate(request)
            case Gradient():
                return self._gradient(request)
            case Show():
                return self._show(request)
            case Export():
                return self._export(request)
            case ExportAdapter():
                return self._export_adapter(request)
            case Translate():
                return self._translate(request)
            case Collect():
                return Collected(self.scorer().right_answers(request.items))
            case Measure():
                self.watch.check(request.parents)
                return measured(self.statistics, request)
            case _:
                assert_never(request)

    def _describe(self, request: Describe) -> Description:
        """Check parents and tasks, and describe them."""
        base = self.parents.checkpoints[self.config.base_model]
        for checkpoint in self.parents.checkpoints.values():
            check_same_kind(base, checkpoint)
            check_compatible(base, checkpoint)
            check_same_tokens(base, checkpoint)
        if request.recipe is not None:
            recipe = Recipe.from_dict(request.recipe)
            checkpoints = with_merges(recipe, self.parents).checkpoints
            chat = self.config.evaluate.apply_chat_template
            check_in_place(recipe, checkpoints, chat=chat)
            live_tensors(self.live_model(), make_plan(recipe, checkpoints))  # no gaps
        self.live_model()  # which decides each parent tensor's device, if there are several
        self.parents.check_finite()
        scorer = self.scorer(request.halvings)
        evaluation = self.harness.describe()
        evaluation["warnings"] = [
            *evaluation["warnings"],
            *(
                f"allowed model code: {file}, SHA-256 {digest[:16]}"
                for file, digest in self._model_code.items()
            ),
            *self.own_models.warnings(),
            *unseen_towers(request.recipe, base),
            *slow_arithmetic(self.live_model()),
            *scorer.check(),
        ]
        evaluation["lm_eval_loads"] = is_causal(self.live_model().config)
        batches = None
        if request.batches is not None:
            mode, items = request.batches
            if self.harness.has(items):  # else the protocols differ, which the driver reports
                batches = scorer.composition(items, mode)
        return Description(
            evaluation,
            fingerprints={name: c.fingerprint for name, c in self.parents.checkpoints.items()},
            parameters=sum(info.numel for info in base.tensors.values()),
            layers=layer_count(base.config),
            device=", ".join(self.devices),
            batches=batches,
            stamp=self.watch.stamp,
            generation=generation_digest(base.folder),
        )

    def _evaluate(self, request: Evaluate) -> Scores:
        """Build the recipe unless it is resident, and score the items."""
        faults.reach("worker.evaluate")
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other._evaluate(request)
        scorer = self.scorer(request.halvings)
        plan, parents, seconds = self._build(recipe)
        self.harness.errors.clear()
        outcomes: list[OutcomeRow] = []
        errors: list[list[Any]] = []
        forward = 0.0
        batches: list[str] = []
        for shard in request.shards:  # each in batches of its own
            scored, missed = wrong_answers_for_errors(
                scorer.score(shard, request.mode), self.harness, request.mode
            )
            outcomes += scored
            errors += missed
            forward += scorer.seconds
            batches.append(scorer.composition(shard, request.mode))
        weights_digest = None
        if request.digest:
            weights_digest = live_digest(self.live_model(), plan, parents)
        return Scores(
            rows=[outcome.as_written() for outcome in outcomes],
            batches=batches,
            errors=errors,
            weights_digest=weights_digest,
            seconds={"build": seconds, "forward": forward},
        )

    def _gradient(self, request: Gradient) -> Gradients:
        """Build the recipe unless it is resident, and run the items forward and backward."""
        faults.reach("worker.gradient")
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other._gradient(request)
        scorer, model = self.scorer(request.halvings), self.live_model()
        if request.loss == "dpo" and (new := scorer.without_reference(request.items)):
            self._build(alone(self.config.base_model, recipe))
            scorer.refer(new)
        plan, parents, seconds = self._build(recipe)
        computed = gradient(request, scorer, model, plan, parents)
        return computed.answer(request.loss, {"build": seconds, "forward": scorer.seconds})

    def _build(self, recipe: Recipe) -> tuple[MergePlan, Parents, float]:
        """Write a recipe into the live model, unless it is there.

        Returns:
            What was computed from which parents, and the seconds that it took.
        """
        began = time.perf_counter()
        parents = with_merges(recipe, self.parents)
        plan = make_plan(recipe, parents.checkpoints)
        if self._resident != recipe.digest:
            self._resident = None
            fill(self.live_model(), plan, parents)
            self._resident = recipe.digest
        return plan, parents, time.perf_counter() - began

    def _show(self, request: Show) -> Shown:
        """Build a recipe, and return what it answers beside what is right."""
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        other = self.own_models.evaluator_for(recipe, self)
        if other is not None:
            return other._show(request)
        scorer = self.scorer(request.halvings)
        self._build(recipe)
        return Shown(scorer.written(request.items))

    def _export(self, request: Export) -> Exported:
        """Write a recipe's model to disk."""
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        parents = with_merges(recipe, self.parents)
        plan = make_plan(recipe, parents.checkpoints)
        return Exported(write(plan, parents, Path(request.out), replace=True))

    def _export_adapter(self, request: ExportAdapter) -> ExportedAdapter:
        """Write what a recipe changes as an adapter, or say why none can."""
        self.watch.check(request.parents)
        recipe = Recipe.from_dict(request.recipe)
        about = self.config.base_model, Path(request.out), request.rank
        try:
            adapter = write_merged_adapter(recipe, with_merges(recipe, self.parents), *about)
        except NoAdapterError as error:
            return ExportedAdapter(str(error))
        return ExportedAdapter(None, **vars(adapter), sentence=adapter.sentence)

    def _translate(self, request: Translate) -> Translation:
        """Translate a recipe to mergekit's format, or say why mergekit cannot express it."""
        recipe = Recipe.from_dict(request.recipe)
        names = list(with_merges(recipe, self.parents).checkpoints[recipe.donor].tensors)
        try:
            return Translation(mergekit.as_yaml(mergekit.to_mergekit(recipe, names)), None)
        except UserError as error:
            return Translation(None, str(error))

    @cached_property
    def harness(self) -> Harness:
        """The study's tasks, loaded when first needed."""
        return load_harness(self.config.evaluate, self._tokenizer)

    def live_model(self) -> Any:
        """Return the model that candidates are built into, loaded by the first call.

        The base lends its architecture and, until a recipe is built, its weights. Parents are
        spread over several devices as the live model is.
        """
        if self._model is None:
            folder = self.parents.checkpoints[self.config.base_model].folder
            self._model, _ = load_model(
                folder, self.config.scored_in, self.devices, bool(self._model_code)
            )
            if unties(self.parents.checkpoints[self.config.base_model], self.parents.checkpoints):
                untie(self._model)
            if len(self.devices) > 1:
                self.parents.spread(self._model)
        return self._model

    def scorer(self, halvings: int = 0) -> Scorer:
        """Return the scorer of the live model, made by the first call for its batch size.

        Args:
            halvings: How often to halve the batch size, because memory ran out.
        """
        rows = max(1, self.config.evaluate.rows_per_batch >> halvings)
        if self._scorer is None or self._scorer.batch_size != rows:
            harness, model, evaluate = self.harness, self.live_model(), self.config.evaluate
            if evaluate.engine == "vllm" and self._decoder is None:
                base = self.parents.checkpoints[self.config.base_model]
                stored = partial(views, model, list(base.tensors))
                about = (base.folder, evaluate.engine_options, stored)
                self._decoder = VllmDecoder(model, self._tokenizer, *about)
            self._scorer = Scorer(model, self._tokenizer, harness, rows, self._decoder)
        return self._scorer

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self.parents.checkpoints[self.tokenizer_of].folder
        tokenizer = load_tokenizer(folder, bool(self._model_code))
        if tokenizer is None:
            raise UserError(f"{folder}: expected tokenizer files, but there are none")
        return tokenizer
