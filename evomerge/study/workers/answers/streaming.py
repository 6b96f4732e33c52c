"""Refuses what a streamed candidate cannot do, and says what to do instead."""

from __future__ import annotations

from typing import Any

import torch

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.core.memory import is_out_of_memory
from evomerge.evaluate.tasks.harness import Harness
from evomerge.optimizers import registry as optimizers
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import CountsTaskConfig, StudyConfig

_WHOLE = "candidates are streamed layer by layer"
_REMEDY = "set workers.gpus to as many as hold one"


def refuse_tasks(harness: Harness, config: StudyConfig) -> None:
    """Refuse tasks that need a whole model: each token that is written would take a whole pass.

    Raises:
        UserError: Names the task.
    """
    counts = {task.name for task in config.evaluate.tasks if isinstance(task, CountsTaskConfig)}
    for task in harness.items:
        kind = harness.output_type(task)
        if kind in ("generate_until", "function", "answer_tokens") and task not in counts:
            does = (
                "calls the model itself" if kind == "function" else "writes answers, token by token"
            )
            raise UserError(
                f"task '{task}': it {does}, but {_WHOLE}, and each call would read every parent "
                f"once more: {_REMEDY}, or take tasks of likelihoods (multiple choice, text)"
            )


def refuse_study(config: StudyConfig) -> None:
    """Refuse what a study asks of every candidate.

    Raises:
        UserError: Names the key.
    """
    search = config.search
    named = [search.optimizer] + ([search.then.optimizer] if search.then else [])
    for name in filter(None, named):
        if optimizers.create(name).learns_from_gradients:
            refuse_gradient(name)
    if config.evaluate.engine == "vllm":
        raise UserError(f"evaluate.engine: vLLM holds whole models, but {_WHOLE}: leave it out")


def refuse_gradient(name: str = "adam") -> None:
    """Refuse an optimizer that goes along gradients."""
    raise UserError(
        f"search.optimizer: {name} goes along gradients, but {_WHOLE}, and no layer is there on "
        f"the way back: set search.optimizer: catcma, or {_REMEDY}"
    )


def refuse_recipe(recipe: Recipe) -> None:
    """Refuse methods that run whole models, or make a model of another shape.

    Raises:
        UserError: Names the method.
    """
    for part in (recipe, *recipe.merges.values()):
        for name in part.method_names:
            spec = methods.get(name)
            if spec.needs_data:
                why = "runs whole models on their rows"
            elif spec.is_structure:
                why = "makes a model of another shape"
            else:
                continue
            raise UserError(
                f"{name}: it {why}, but {_WHOLE}: take a method of the parents' weights alone, or "
                f"{_REMEDY}"
            )


def check_streams(model: Any) -> None:
    """Try out whether an architecture reads weights only in the modules that hold them.

    Raises:
        UserError: It does not.
    """
    try:
        with torch.inference_mode():
            logits = model(
                input_ids=torch.zeros((1, 4), dtype=torch.long, device=model.device)
            ).logits
        finite = bool(torch.isfinite(logits).all())
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        finite = False
    if not finite:
        raise UserError(
            f"{type(model).__name__}: it has no finite logits where {_WHOLE}: the base is broken, "
            f"or the architecture reads weights of other modules; set workers.candidate: whole and "
            "workers.gpus to as many as hold one"
        )
