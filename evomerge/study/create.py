"""`create_study`: a study from Python values instead of a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import optimizers as search
from evomerge.core.errors import UserError
from evomerge.optimizers import Optimizer
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.ledger import Listener
from evomerge.study.study import Study


@dataclass(frozen=True)
class LMEval:
    """How candidates are scored: the study file's ``evaluate``, as Python values.

    Attributes:
        tasks: lm-eval task names, or mappings {name, metric, weight}; with `text` or `function`
            as in a study file.
        include_path: Folders of task YAML.
        num_fewshot: Examples in the prompt; ``None`` leaves it to the task.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        batch_size: Rows per batch, or ``"auto"``.
        fitness: ``"smooth"`` (log-likelihoods, no decoding) or ``"metric"``.
        items: Shares of the pools and `per_generation`; ``None`` takes the defaults.
        allow_task_code: Whether tasks may run Python of their own.
    """

    tasks: Sequence[str | Mapping[str, Any]]
    include_path: Sequence[str | Path] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int | str = "auto"
    fitness: str = "smooth"
    items: Mapping[str, float] | None = None
    allow_task_code: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As the study file would say it."""
        return {
            "tasks": [task if isinstance(task, str) else dict(task) for task in self.tasks],
            "include_path": [str(Path(folder).resolve()) for folder in self.include_path],
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.apply_chat_template,
            "batch_size": self.batch_size,
            "fitness": self.fitness,
            "items": dict(self.items or {}),
            "allow_task_code": self.allow_task_code,
        }


def create_study(
    space: SearchSpace,
    evaluate: LMEval,
    directory: str | Path,
    *,
    optimizer: str | Optimizer = "catcma",
    trials: int = 240,
    seed: int = 0,
    workers: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    trust_remote_code: str | None = None,
    listener: Listener | None = None,
    reuse: Sequence[str | Path] = (),
) -> Study:
    """Make a study, or find the one that `directory` holds.

    >>> import tempfile
    >>> import evomerge as em
    >>> space = em.SearchSpace.from_yaml("task_arithmetic_by_depth")
    >>> space = space.bind(base="base", models=["a", "b"])
    >>> directory = tempfile.mkdtemp()
    >>> with em.create_study(space, em.LMEval(["gsm8k"]), directory) as study:
    ...     trial = study.ask()  # nothing is read yet: `trial.recipe` is scored elsewhere
    ...     study.tell(trial, {"gsm8k": 0.61})
    >>> em.load_study(directory).trials[0]
    Trial(0, 'a', scored, fitness=None)

    Args:
        space: A space with its models in their places (`SearchSpace.bind`).
        evaluate: How candidates are scored.
        directory: The run folder.
        optimizer: An optimizer's name, or one that was made with options, e.g.
            ``CmaEs(sigma=0.1, population=16)``; it is not used itself.
        trials: How many recipes to try, in whole generations.
        seed: Of the item pools, the methods that drop at random, and the optimizer if it has none.
        workers: As in a study file, e.g. ``{"backend": "ray", "count": 8, "gpus": 1}``.
        output: As in a study file, e.g. ``{"dtype": "float32"}``.
        trust_remote_code: As in a study file.
        listener: Called after every event with the event and the record.
        reuse: Other run folders, as for `Study`.

    Raises:
        UserError: The space is not bound to models, or a value is wrong.
    """
    if space.unbound:
        raise UserError(f"{space.where}: names no models yet: call bind(base=..., models=[...])")
    recipe = space.fill([dimension.start for dimension in space.dimensions])
    base = recipe.donor
    models = [model for model in recipe.model_names if model != base or model in _listed(recipe)]
    document = {
        "base_model": base,
        "models": models,
        "space": space.document,
        "evaluate": evaluate.to_dict(),
        "search": {
            "optimizer": optimizer if isinstance(optimizer, str) else search.name_of(optimizer),
            "trials": trials,
            "seed": seed,
            "options": {} if isinstance(optimizer, str) else dict(optimizer.options),
        },
        "workers": dict(workers or {}),
        "output": dict(output or {}),
        "trust_remote_code": trust_remote_code,
    }
    return Study(StudyConfig.from_dict(document, Path.cwd()), directory, listener, reuse)


def _listed(recipe: Any) -> list[str]:
    return [entry.model for entry in recipe.models]
