"""Loads a study's tasks in a worker, as `evaluate` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.evaluate.generation.vllm import engine_name
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from evomerge.study.config import (
    EvaluateConfig,
    FunctionTaskConfig,
    PreferencesTaskConfig,
    TaskConfig,
    TextTaskConfig,
    TokensTaskConfig,
)


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
    return plain
