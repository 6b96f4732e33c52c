"""Reads the genome of a mergekit-evolve file, and makes its genes holes of a search space.

A weight (and a density) for each model, group of layers and filter becomes a hole; groups become
slices or, if they are `smooth`, knots over depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.architecture import layer_count
from evomerge.checkpoint.opening import config_of
from evomerge.core import schema, yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.mergekit.from_mergekit import spelled

_DENSITY = {"low": 0.0, "high": 1.0, "initial": 1.0}


@dataclass(frozen=True)
class Genome:
    """The definition under ``genome``, with mergekit-evolve's defaults; models are absolute."""

    models: tuple[str, ...]
    merge_method: Literal["linear", "slerp", "task_arithmetic", "ties", "dare_ties"]
    base_model: str | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: tuple[str, ...] = ()
    smooth: bool = False


def read_genome(document: Any, folder: Path, where: str) -> Genome:
    """Read what stands under ``genome``; folders are made absolute.

    Raises:
        UserError: A field is unknown or wrong; names it.
    """
    fields = yaml_file.present(document, where)

    def named(value: Any, key: str) -> str:
        name = spelled(value, f"{where}: {key}")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: {key}: expected a folder or a hub id but got {value!r}")
        return model_name.relocated(name, folder)

    if isinstance(fields.get("models"), list):
        fields["models"] = [named(m, f"models[{i}]") for i, m in enumerate(fields["models"])]
    if "base_model" in fields:
        fields["base_model"] = named(fields["base_model"], "base_model")
    if fields.get("tokenizer_source") not in (None, "base", "union"):
        fields["tokenizer_source"] = named(fields["tokenizer_source"], "tokenizer_source")
    genome: Genome = schema.read(Genome, fields, where)
    if not genome.models or "" in genome.filters:
        raise UserError(f"{where}: expected one or more models, and filters that are not empty")
    return genome


def base_and_models(genome: Genome, notes: list[str], where: str) -> tuple[str, list[str]]:
    """Return the study's base model, and the models that are merged.

    Raises:
        UserError: The method needs another base, or other models.
    """
    base, models = genome.base_model, list(genome.models)
    if methods.get(genome.merge_method).takes_base and genome.merge_method != "slerp":
        if base is None:
            raise UserError(f"{where}: {genome.merge_method} needs a base_model")
        if base in models:
            notes.append("base_model is not merged as one of the models: its genes had no effect")
        return base, [model for model in models if model != base]
    if genome.merge_method == "slerp":
        if len(models) != 2 or base not in (None, *models):
            raise UserError(
                f"{where}: slerp merges two models, one of them the base_model if that is given, "
                f"but got {len(models)}; mergekit-evolve takes the two largest genes of a group: "
                "use task_arithmetic, linear or multislerp for more"
            )
        notes.append(
            "slerp: one t in [0, 1] per group, where mergekit-evolve takes a softmax of two genes "
            "whose t rarely reaches either end"
        )
    elif base is not None and base not in models:
        notes.append("linear: base_model gives config and tokenizer; mergekit-evolve fails on it")
    return base or models[0], models


def space_of(
    genome: Genome, base: str, models: Sequence[str], notes: list[str], where: str
) -> dict[str, Any]:
    """Return the recipe with a hole for every gene.

    Raises:
        UserError: The layers cannot be cut into groups of that size.
    """
    spec = methods.get(genome.merge_method)
    groups, span = 1, 0
    if genome.layer_granularity > 0:
        depth = layer_count(config_of(genome.models[0]))
        span = genome.layer_granularity
        if depth is None or depth % span:
            raise UserError(
                f"{where}: layer_granularity: expected a divisor of the {depth} layers of "
                f"{genome.models[0]}, but got {span}"
            )
        groups = depth // span
    knots = {"knots": groups} if genome.smooth and groups > 1 else {}
    negative = genome.allow_negative_weights
    weight = {"low": -1.0 if negative else 0.0, "high": 1.5, "initial": round(1 / len(models), 6)}
    per_model = {"weight": _filtered({**weight, **knots}, genome.filters)}
    if any(parameter.name == "density" for parameter in spec.parameters):
        per_model["density"] = _filtered({**_DENSITY, **knots}, genome.filters)
    shared: dict[str, Any] = {}
    if genome.merge_method == "slerp":
        per_model, shared = {}, {"t": {"low": 0.0, "high": 1.0, "initial": 0.5}}
    else:
        notes.append(f"weights lie in [{weight['low']:g}, 1.5]; mergekit-evolve bounds none")
    whole: dict[str, Any] = {"merge_method": genome.merge_method}
    if genome.base_model is not None or spec.takes_base:
        whole["base_model"] = base
    if groups > 1 and not knots:
        whole["slices"] = [
            {
                "sources": [
                    _entry(model, per_model, {"layer_range": [i * span, (i + 1) * span]})
                    for model in models
                ],
                **({"parameters": shared} if shared else {}),
            }
            for i in range(groups)
        ]
        shared = {}
    else:
        whole["models"] = [_entry(model, per_model, {}) for model in models]
    if any(parameter.name == "normalize" for parameter in spec.parameters):
        default = genome.merge_method != "task_arithmetic"
        shared = {**shared, "normalize": default if genome.normalize is None else genome.normalize}
    whole |= {"parameters": shared} if shared else {}
    if genome.tokenizer_source is not None:
        whole["tokenizer_source"] = genome.tokenizer_source
    return whole


def _entry(model: str, parameters: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, **more, **({"parameters": dict(parameters)} if parameters else {})}


def _filtered(hole: Mapping[str, Any], filters: Sequence[str]) -> Any:
    """Return one hole, or one for each filter and one for the rest."""
    if not filters:
        return dict(hole)
    return [*({"filter": f, "value": dict(hole)} for f in filters), {"value": dict(hole)}]
