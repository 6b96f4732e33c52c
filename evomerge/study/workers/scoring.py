"""Loads what scores candidates in a worker: tokenizer, tasks, live models and their scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from evomerge.calibration.live import live_parent
from evomerge.checkpoint.compatible import unties
from evomerge.core.errors import UserError
from evomerge.evaluate.ensemble import Ensemble
from evomerge.evaluate.generation.vllm import VllmDecoder, engine_name
from evomerge.evaluate.live import Live, LiveModels
from evomerge.evaluate.model import load_tokenizer
from evomerge.evaluate.outcomes import Mean
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from evomerge.merge.live_layout import views
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.merge.streamed import StreamedMerge
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import (
    CountsTaskConfig,
    EvaluateConfig,
    FunctionTaskConfig,
    PreferencesTaskConfig,
    StudyConfig,
    TaskConfig,
    TextTaskConfig,
    TokensTaskConfig,
)
from evomerge.study.workers.answers.streaming import check_streams, refuse_tasks
from evomerge.study.workers.devices import is_streamed


class Scoring:
    """Scores candidates of any config; each part is loaded when it is first needed.

    Args:
        config: The study; its base lends the first live model.
        parents: The study's models.
        devices: Where live models are.
        trust_remote_code: Whether Python in the base's folder may run.
        tokenizer_of: The model whose tokenizer is used.
    """

    def __init__(
        self,
        config: StudyConfig,
        parents: Parents,
        devices: list[str],
        trust_remote_code: bool,
        tokenizer_of: str,
    ):
        self._config, self._parents, self._devices = config, parents, devices
        self._trust_remote_code, self._tokenizer_of = trust_remote_code, tokenizer_of
        self._base = parents.checkpoints[config.base_model]
        self.is_streamed = is_streamed(config, parents.opened, devices)
        self._decoder: VllmDecoder | None = None
        self._ensemble: tuple[tuple[Any, ...], Scorer] | None = None

    @cached_property
    def harness(self) -> Harness:
        """The study's tasks."""
        harness = load_harness(self._config.evaluate, self.tokenizer)
        if self.is_streamed:
            refuse_tasks(harness, self._config)
        return harness

    @cached_property
    def models(self) -> LiveModels:
        """The models that candidates are built into.

        Parents are spread over several devices as the base's live model is.
        """
        about = self._config.scored_in, self._devices, self._trust_remote_code
        untied = unties(self._base, self._parents.checkpoints)
        models = LiveModels(self._base.folder, self._base.config, *about, untied, self.is_streamed)
        if models.home.streamed is not None:  # fast paths are tried out on the base
            base = {"merge_method": "passthrough", "models": [self._config.base_model]}
            recipe = Recipe.from_dict({**base, "out_dtype": self._config.scored_in})
            built = plan(recipe, self._parents.checkpoints)
            models.home.streamed.source = StreamedMerge(models.home.model, built, self._parents)
            check_streams(models.home.model)
        if len(self._devices) > 1:
            self._parents.spread(models.home.model)
        return models

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of every candidate."""
        folder = self._parents.checkpoints[self._tokenizer_of].folder
        tokenizer = load_tokenizer(folder, self._trust_remote_code)
        if tokenizer is None:
            raise UserError(f"{folder}: expected tokenizer files, but there are none")
        return tokenizer

    def scorer(self, halvings: int = 0, live: Live | None = None) -> Scorer:
        """Return the scorer of a live model, made by the first call for its batch size.

        Args:
            halvings: How often to halve the batch size, because memory ran out.
            live: The model; ``None``: the base's.

        Raises:
            UserError: vLLM, which runs the base's config, is to run another.
        """
        live = live or self.models.home
        rows = max(1, self._config.evaluate.rows_per_batch >> halvings)
        if live.scorer is None or live.scorer.batch_size != rows:
            like = self.scorer(halvings) if self.models.of_one_kind(live) else None
            about = live.model, self.tokenizer, self.harness, rows
            live.scorer = Scorer(*about, self._engine(live), like)
        return live.scorer

    def ensemble(self, models: Sequence[str], mean: Mean, halvings: int = 0) -> Scorer:
        """Return the scorer of several parents side by side; the last one is kept.

        Raises:
            UserError: They make no ensemble, or vLLM is to run it.
        """
        if self._config.evaluate.engine == "vllm" or len(self._devices) > 1 or self.is_streamed:
            raise UserError("an ensemble: it runs whole on one device, without vLLM")
        rows = max(1, self._config.evaluate.rows_per_batch >> halvings)
        key = (tuple(models), mean, rows)
        if self._ensemble is None or self._ensemble[0] != key:
            self._ensemble = None  # whose memory is needed
            dtype = self._config.scored_in
            members = [live_parent(model, self._parents, dtype) for model in models]
            together = Ensemble(members, mean)
            self._ensemble = key, Scorer(together, self.tokenizer, self.harness, rows)
        return self._ensemble[1]

    def _engine(self, live: Live) -> VllmDecoder | None:
        """Return the separate engine that generates, if the study names one."""
        evaluate = self._config.evaluate
        if evaluate.engine != "vllm":
            return None
        if live is not self.models.home:
            raise UserError(
                "evaluate.engine: vLLM runs the base's config, and a candidate has other layers or "
                "shapes; leave engine out"
            )
        if self._decoder is None:
            stored = partial(views, live.model, list(self._base.tensors))
            about = (self._base.folder, evaluate.engine_options, stored)
            self._decoder = VllmDecoder(live.model, self.tokenizer, *about)
        return self._decoder


def load_harness(evaluate: EvaluateConfig, tokenizer: Any) -> Harness:
    """Load the tasks and build every request.

    Raises:
        UserError: A task cannot be used; see `Harness.load`.
    """
    uses_vllm = evaluate.engine == "vllm"
    return Harness.load(
        [_requested(task) for task in evaluate.tasks],
        [Path(folder) for folder in evaluate.include_path],
        num_fewshot=evaluate.num_fewshot,
        apply_chat_template=evaluate.apply_chat_template,
        tokenizer=tokenizer,
        allow_task_code=evaluate.allow_task_code,
        engine=engine_name(evaluate.engine_options) if uses_vllm else None,
        system_instruction=evaluate.system_instruction,
        fewshot_as_multiturn=evaluate.fewshot_as_multiturn,
        gen_kwargs=evaluate.gen_kwargs,
        fewshot_seed=evaluate.fewshot_seed,
        model_args=evaluate.model_args,
    )


def _requested(one: TaskConfig) -> TaskRequest:
    plain = TaskRequest(one.name, one.metric, one.weight, bounds=one.bounds, cluster=one.cluster)
    if isinstance(one, TextTaskConfig):
        return replace(plain, text=Path(one.text), chunk_bytes=one.chunk_bytes)
    if isinstance(one, PreferencesTaskConfig):
        return replace(plain, preferences=Path(one.preferences))
    if isinstance(one, FunctionTaskConfig):
        return replace(plain, function=one.function, items=one.items)
    if isinstance(one, TokensTaskConfig):
        return replace(plain, tokens_of=one.tokens_of)
    if isinstance(one, CountsTaskConfig):
        return replace(plain, counts=one.counts)
    return plain
