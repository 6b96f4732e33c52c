"""Writes the stock `lm_eval` command that prints a verdict's scores for the exported model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.study.config import FunctionTaskConfig, StudyConfig, TextTaskConfig


def reproduce(config: StudyConfig, model: Path, items: Mapping[str, Sequence[int]]) -> str | None:
    """Return the command; several joined by ``&&`` where tasks lie in several folders.

    Args:
        config: The study's.
        model: Where its model is exported to.
        items: Document numbers of each held-out task.

    Returns:
        ``None`` where no model is exported, or no task is lm-eval's.
    """
    evaluate = config.evaluate
    ours = {t.name for t in evaluate.tasks if isinstance(t, TextTaskConfig | FunctionTaskConfig)}
    tasks = [task for task in items if task not in ours]
    if not config.output.save_model or not tasks:
        return None
    model_args: dict[str, object] = {"pretrained": model.resolve(), "dtype": config.output.dtype}
    if config.trust_remote_code:
        model_args["trust_remote_code"] = True
    arguments = ",".join(f"{key}={value}" for key, value in model_args.items())
    commands = []
    for folder, names in _by_folder(tasks, evaluate.include_path).items():
        words = ["lm_eval", "--model", "hf", "--model_args", arguments]
        words += ["--tasks", ",".join(names)]
        if folder is not None:
            words += ["--include_path", folder]
        if evaluate.num_fewshot is not None:
            words += ["--num_fewshot", str(evaluate.num_fewshot)]
        if evaluate.apply_chat_template:
            words += ["--apply_chat_template"]
        samples = {task: sorted(items[task]) for task in names}
        words += ["--samples", json.dumps(samples, separators=(",", ":"))]
        words += ["--batch_size", str(evaluate.rows_per_batch)]
        commands.append(shlex.join(words))
    return " && ".join(commands)


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
