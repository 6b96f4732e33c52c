"""Reads `evaluate`: how candidates are scored."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evomerge.core.errors import UserError, unknown
from evomerge.study.config.items import ItemsConfig
from evomerge.study.config.tasks import FunctionTaskConfig, TaskConfig, TokensTaskConfig

ITEMS_PER_CANDIDATE, LEAST_PER_TASK = 48, 4  # where a study does not say items.per_generation
MODEL_ARGS = (
    "add_bos_token",
    "max_length",
    "prefix_token_id",
    "chat_template_args",
    "enable_thinking",
    "think_end_token",
)


@dataclass(frozen=True)
class EvaluateConfig:
    """The scoring of candidates.

    Attributes:
        tasks: lm-eval tasks: a name, or a mapping of `name`, `metric` and `weight`. With `text` a
            file's bits per byte, with `preferences` a file of answers chosen and rejected, with
            `function` a Python function's scores, with `tokens_of` the length of the answers to
            another task, with `counts` the model's layers or parameters.
        include_path: Folders of task YAML.
        num_fewshot: Examples in the prompt; ``None`` leaves it to the task.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: Stands before every prompt, as lm_eval's `--system_instruction`.
        fewshot_as_multiturn: Whether examples are turns of the conversation; ``None`` is yes with a
            chat template, as in lm_eval.
        gen_kwargs: Settings of generation over those of the tasks, as lm_eval's `--gen_kwargs`.
        fewshot_seed: Seed for drawing examples; ``None`` is lm_eval's 1234.
        model_args: Of lm_eval's `--model_args` those that change a prompt or a score:
            `add_bos_token`, `max_length`, `prefix_token_id`, `chat_template_args`,
            `enable_thinking`, `think_end_token`.
        dtype: What the model computes in, as lm_eval's `--model_args dtype=…`; ``None`` is
            `output.dtype`. ``float32`` scores the same rounded weights in finer arithmetic, which
            a processor without bfloat16 also does several times as fast.
        batch_size: Rows per batch; ``auto`` is 64.
        fitness: ``smooth`` scores by log-likelihoods, with no decoding; ``metric`` by the task's
            own metric. Race and verdict always use the metric.
        adapters: Candidates that are sums of LoRA adapters (task arithmetic) may be scored side by
            side, up to 16 in one pass of the base, without writing their weights: ``together``,
            or ``built`` one by one. Left out, they go together in a search by scores where a
            candidate's tokens are so few that it is faster. Anchors, race and verdict are built.
        items: How documents are shared out.
        allow_task_code: Whether tasks may run Python of their own. Only for tasks that you trust.
        engine: What generates answers: ``hf``, the live model, or ``vllm``, a separate engine
            whose weights are replaced in place. Likelihoods are the live model's in either case.
        engine_options: Passed to `vllm.LLM`, e.g. ``{gpu_memory_utilization: 0.5}``.
    """

    tasks: tuple[TaskConfig, ...]
    include_path: tuple[str, ...] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    fewshot_seed: int | None = None
    model_args: Mapping[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_size: int | Literal["auto"] = "auto"
    fitness: Literal["smooth", "metric"] = "smooth"
    adapters: Literal["together", "built"] | None = None
    items: ItemsConfig = field(default_factory=ItemsConfig)
    allow_task_code: bool = False
    engine: Literal["hf", "vllm"] = "hf"
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items_per_task(self) -> int:
        """Documents of each task in a generation."""
        if self.items.per_generation is not None:
            return self.items.per_generation
        apart = len(self.items.race_tasks) + len(self.items.holdout_tasks)
        searched = max(1, len(self.tasks) - apart)
        return max(LEAST_PER_TASK, round(ITEMS_PER_CANDIDATE / searched))

    @property
    def answers_of(self) -> dict[str, str]:
        """Tasks that measure how long answers are, and the task that is answered."""
        return {t.name: t.tokens_of for t in self.tasks if isinstance(t, TokensTaskConfig)}

    @property
    def rows_per_batch(self) -> int:
        """The batch size as a number; ``auto`` is 64."""
        return 64 if self.batch_size == "auto" else self.batch_size

    def check(self, where: str) -> None:
        """Refuse numbers that nothing could be scored with."""
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise UserError(f"{where}: evaluate.tasks: expected one or more different tasks")
        weights = [task.weight for task in self.tasks]
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise UserError(
                f"{where}: evaluate.tasks: expected weights of at least 0, not all 0, "
                f"but got {weights}"
            )
        for i, task in enumerate(self.tasks):
            key = f"{where}: evaluate.tasks[{i}]"
            task.check(key)
            if isinstance(task, FunctionTaskConfig) and not self.allow_task_code:
                raise UserError(
                    f"{key}.function: {task.function} is code; read it, then set "
                    "evaluate.allow_task_code: true"
                )
        if self.engine_options and self.engine != "vllm":
            raise UserError(f"{where}: evaluate.engine_options: only `engine: vllm` takes options")
        self._check_prompts(where)
        sizes = {"batch_size": self.rows_per_batch, "items.per_generation": self.items_per_task}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{where}: evaluate.{name}: expected at least 1, but got {size}")
        self.items.check(where)

    def _check_prompts(self, where: str) -> None:
        """Refuse settings of prompts that lm_eval does not have, or that contradict each other."""
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise UserError(
                f"{where}: evaluate.fewshot_as_multiturn: turns need apply_chat_template: true"
            )
        for key in self.model_args or ():
            if key not in MODEL_ARGS:
                raise UserError(unknown(f"key of {where}: evaluate.model_args", key, MODEL_ARGS))
        thought_ends = (self.model_args or {}).get("think_end_token")
        if not thought_ends:
            return
        lengths = [task.name for task in self.tasks if isinstance(task, TokensTaskConfig)]
        if lengths and str(thought_ends).isdigit():
            raise UserError(
                f"{where}: evaluate.model_args.think_end_token: write it as text, such as "
                f"</think>: lm_eval drops what a token's number ends before {lengths[0]} counts it"
            )
        for setting, needed in ((self.fitness, "metric"), (self.engine, "hf")):
            if setting != needed:
                key = "engine" if needed == "hf" else "fitness"
                raise UserError(
                    f"{where}: evaluate.model_args.think_end_token: answers behind a model's "
                    f"thinking need {key}: {needed}, but it is {setting}"
                )

    def complete(self, folder: Path, absolute: Callable[[str], str], where: str) -> EvaluateConfig:
        """Return the same with whole paths, and a number of items per generation."""
        for shown in self.include_path:
            if not (folder / shown).is_dir():
                raise UserError(f"{where}: evaluate.include_path: {folder / shown} is no folder")
        items = dataclasses.replace(self.items, per_generation=self.items_per_task)
        tasks = f"{where}: evaluate.tasks"
        return dataclasses.replace(
            self,
            items=items,
            include_path=tuple(map(absolute, self.include_path)),
            tasks=tuple(task.located(absolute, tasks) for task in self.tasks),
        )
