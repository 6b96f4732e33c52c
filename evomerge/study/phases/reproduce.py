"""Writes the stock `lm_eval` command that prints a verdict's scores for the exported model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from evomerge.study.config import (
    CountsTaskConfig,
    EvaluateConfig,
    FunctionTaskConfig,
    PreferencesTaskConfig,
    StudyConfig,
    TextTaskConfig,
    TokensTaskConfig,
)


def reproduce(
    config: StudyConfig,
    model: Path,
    items: Mapping[str, Sequence[int]],
    sampled: Collection[str] = (),
    brings_code: bool = False,
) -> str | None:
    """Return the command; several joined by ``&&`` where tasks lie in several folders.

    A comment at its end names the tasks that it leaves out, and those whose answers are drawn anew.

    Args:
        config: The study's.
        model: Where its model is exported to.
        items: Document numbers of each held-out task.
        sampled: The tasks whose answers are drawn at random.
        brings_code: Whether the model has a Python file of ours that has to run.

    Returns:
        ``None`` where no model is exported, or no task is lm-eval's.
    """
    evaluate = config.evaluate
    kinds = (
        TextTaskConfig,
        PreferencesTaskConfig,
        FunctionTaskConfig,
        TokensTaskConfig,
        CountsTaskConfig,
    )
    ours = {task.name for task in evaluate.tasks if isinstance(task, kinds)}
    tasks = [task for task in items if task not in ours]
    if not config.output.save_model or not tasks:
        return None
    commands = []
    for folder, names in _by_folder(tasks, evaluate.include_path).items():
        words = [
            "lm_eval",
            "--model",
            "hf",
            "--model_args",
            _model_args(config, model, brings_code),
        ]
        words += ["--tasks", ",".join(names)]
        if folder is not None:
            words += ["--include_path", folder]
        words += _prompt_options(evaluate)
        samples = {task: sorted(items[task]) for task in names}
        words += ["--samples", _json(samples)]
        words += ["--batch_size", str(evaluate.rows_per_batch)]
        commands.append(shlex.join(words))
    notes = {
        "left out, since they are not lm_eval's": [task for task in items if task in ours],
        "drawn at random, so other numbers": [task for task in tasks if task in sampled],
    }
    comment = "; ".join(f"{why}: {', '.join(names)}" for why, names in notes.items() if names)
    return " && ".join(commands) + (f"  # {comment}" if comment else "")


def _model_args(config: StudyConfig, model: Path, brings_code: bool) -> str:
    """Write `--model_args`: plain pairs, or JSON where a value may be more than a word."""
    arguments: dict[str, object] = {
        "pretrained": str(model.resolve()),
        "dtype": config.scored_in,
    }
    if config.trust_remote_code or brings_code:
        arguments["trust_remote_code"] = True
    if config.evaluate.model_args:
        return _json({**arguments, **config.evaluate.model_args})
    return ",".join(f"{key}={value}" for key, value in arguments.items())


def _prompt_options(evaluate: EvaluateConfig) -> list[str]:
    words = []
    if evaluate.num_fewshot is not None:
        words += ["--num_fewshot", str(evaluate.num_fewshot)]
    if evaluate.apply_chat_template:
        words += ["--apply_chat_template"]
    if evaluate.fewshot_as_multiturn is not None:
        words += ["--fewshot_as_multiturn", str(evaluate.fewshot_as_multiturn).lower()]
    if evaluate.system_instruction is not None:
        words += ["--system_instruction", evaluate.system_instruction]
    if evaluate.gen_kwargs:
        words += ["--gen_kwargs", _json(evaluate.gen_kwargs)]
    if evaluate.fewshot_seed is not None:
        words += ["--seed", f"0,1234,1234,{evaluate.fewshot_seed}"]
    return words


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=dict)


def _by_folder(tasks: Sequence[str], folders: Sequence[str]) -> dict[str | None, list[str]]:
    """Group tasks by the folder whose files name them, the last such; else by the first."""
    by_folder: dict[str | None, list[str]] = {}
    for task in tasks:
        named = [folder for folder in folders if len(folders) == 1 or _names(folder, task)]
        by_folder.setdefault([*folders[:1], *named][-1] if folders else None, []).append(task)
    return by_folder


def _names(folder: str, task: str) -> bool:
    line = re.compile(rf"^[\s-]*task:\s*[\"']?{re.escape(task)}[\"']?\s*(?:#.*)?$", re.MULTILINE)
    files = Path(folder).rglob("*.yaml")
    return any(line.search(file.read_text("utf-8", errors="replace")) for file in files)
