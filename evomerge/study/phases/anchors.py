"""Makes the anchors: parents and usual merges, scored before the search as its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Data
from evomerge.study.config import StudyConfig
from evomerge.study.own_rows import anchors_of_data

ALPHAS = tuple(i / 10 for i in range(1, 10))  # of WiSE-FT's sweep between base and fine-tune
LAMBDAS = (0.3, 0.5, 0.7, 1.0)  # of the task-arithmetic sweep; .3 to .4 is Ilharco's usual choice


@dataclass(frozen=True)
class Anchor:
    """A recipe with its kind (``parent``, ``base`` or ``anchor``) and a name for people."""

    kind: str
    name: str
    recipe: Recipe


def anchors(config: StudyConfig, data: Mapping[str, Data] | None = None) -> list[Anchor]:
    """Return every parent, the base, and the default merges of all of them.

    The merges are: uniform average, task arithmetic at several strengths, TIES (density .2 as its
    paper, and .5) and DARE-TIES (density .5) at λ 1, Model Stock, and SLERP's middle for a pair.
    Task arithmetic of a single model is WiSE-FT, and the strengths are that paper's .1, .2 … .9.
    Where every model has rows of its own: RegMean, Fisher and UBGM (`own_rows.anchors_of_data`).

    Args:
        config: The study.
        data: Rows of models, by model.
    """
    base, models = config.base_model, config.models
    listed = [Anchor("parent", name, _single(config, m)) for m, name in _names(models).items()]
    if base not in models:
        listed.append(Anchor("base", _names([base, *models])[base], _single(config, base)))

    def add(name: str, method: str, parameters: Mapping[str, Any], **per_model: Any) -> None:
        listed.append(Anchor("anchor", name, _merge(config, method, parameters, per_model)))

    add("uniform average", "linear", {"normalize": True}, weight=1.0)
    single = len(models) == 1
    for alpha in ALPHAS if single else ():  # base + α (model - base): Wortsman 2021
        add(f"WiSE-FT α={alpha:g}", "task_arithmetic", {}, weight=alpha)
    for strength in () if single else LAMBDAS:
        add(f"task arithmetic λ={strength:g}", "task_arithmetic", {}, weight=strength)
    for density in (0.2, 0.5):
        ties = {"normalize": True, "lambda": 1.0}
        add(f"TIES density={density:g}", "ties", ties, weight=1.0, density=density)
    share = 1.0 / len(models)
    add("DARE-TIES density=0.5", "dare_ties", {"lambda": 1.0}, weight=share, density=0.5)
    if len(set(models) - {base}) >= 2:
        add("Model Stock", "model_stock", {"filter_wise": False})
    if len(models) == 2:
        document: dict[str, Any] = {"merge_method": "slerp", "models": list(models)}
        document |= {"base_model": models[0], "parameters": {"t": 0.5}, **_common(config)}
        listed.append(Anchor("anchor", "SLERP t=0.5", Recipe.from_dict(document)))
    for name, document in anchors_of_data(base, models, data or {}, config.calibration).items():
        listed.append(Anchor("anchor", name, Recipe.from_dict({**document, **_common(config)})))
    return listed


def _single(config: StudyConfig, model: str) -> Recipe:
    document = {
        "merge_method": "linear",
        "models": [{"model": model, "parameters": {"weight": 1.0}}],
    }
    return Recipe.from_dict({**document, "parameters": {"normalize": False}, **_common(config)})


def _merge(
    config: StudyConfig, method: str, parameters: Mapping[str, Any], per_model: Mapping[str, Any]
) -> Recipe:
    document: dict[str, Any] = {
        "merge_method": method,
        "base_model": config.base_model,
        "models": [
            {"model": model, **({"parameters": dict(per_model)} if per_model else {})}
            for model in config.models
        ],
        "parameters": dict(parameters),
        **_common(config),
    }
    return Recipe.from_dict(document)


def _common(config: StudyConfig) -> dict[str, Any]:
    return {"dtype": "float32", "out_dtype": config.output.dtype, "seed": config.search.seed}


def _names(models: Sequence[str]) -> dict[str, str]:
    """Name models for people: by the last part of a path where that is clear, else by all of it."""
    short = {model: Path(model).name for model in models}
    seen = list(short.values())
    return {model: name if seen.count(name) == 1 else model for model, name in short.items()}
