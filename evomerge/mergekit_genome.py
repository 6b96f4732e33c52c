"""mergekit-evolve's genome files as study files, with a note for each field that changes meaning.

Its genotype becomes holes: a weight (and a density) per model, group of layers and filter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import methods, model_name, yaml_file
from evomerge.architecture import layer_count
from evomerge.checkpoint import read_config, resolve
from evomerge.errors import UserError, unknown
from evomerge.mergekit_import import spelled

_METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")
_DENSITY = {"low": 0.0, "high": 1.0, "initial": 1.0}
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "ter")
_PER_GENERATION = 48  # what a study file defaults to
_TRIALS = 100  # mergekit-evolve's own --max-fevals


@dataclass(frozen=True)
class _Genome:
    """The definition under ``genome``, with mergekit-evolve's defaults; models are absolute."""

    models: list[str]
    merge_method: str
    base_model: str | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


@dataclass(frozen=True)
class ImportedStudy:
    """A study file as plain data, and where it differs from the genome file, in sentences."""

    document: Mapping[str, Any]
    notes: tuple[str, ...]


def is_genome_file(document: Any) -> bool:
    """Whether a document is mergekit-evolve's rather than mergekit's."""
    return isinstance(document, Mapping) and "genome" in document


def from_genome(
    document: Any, folder: Path, include_path: Sequence[Path] = (), where: str = "genome file"
) -> ImportedStudy:
    """Read a genome file of mergekit-evolve 0.1.5 as a study file.

    Args:
        document: The file as plain data.
        folder: What its relative folders are relative to.
        include_path: Folders of task YAML (mergekit-evolve's ``--task-search-path``).
        where: What messages call it.

    Raises:
        UserError: A field is unknown or wrong, or asks for what a study cannot do; names it.
    """
    known = {
        "tasks": list,
        "limit": int,
        "num_fewshot": int,
        "shuffle": bool,
        "random_init": bool,
        "apply_chat_template": bool,
        "fewshot_as_multiturn": bool,
    }
    held = _fields(document, {"genome": Mapping, **known}, where)
    genome = _genome(held["genome"], folder, f"{where}: genome")
    notes: list[str] = []
    base, models = _models(genome, notes, f"{where}: genome")
    evaluate = {
        "tasks": _tasks(held.get("tasks"), where),
        "include_path": [str(path.resolve()) for path in include_path],
        "num_fewshot": held.get("num_fewshot"),
        "apply_chat_template": _chat(held, base, notes),
        "fitness": "metric",
        "items": {"per_generation": _limit(held, notes, where)},
    }
    notes += [
        "fitness metric, as mergekit-evolve scores; smooth, the default, tells close recipes apart "
        "and decodes nothing",
        "a task's score is its mean over items, better upwards whatever the metric's direction, "
        "and weights are shares",
        f"trials: {_TRIALS} is mergekit-evolve's --max-fevals, which it reads from the command "
        "line; workers, deadline and seed are told below or by `evomerge search`",
        "not all items are searched on: winners are raced on fresh ones and judged on held-out "
        "ones, against the parents and plain merges",
        "merges are computed in float32 and cast once to bfloat16, in which mergekit-evolve "
        "computes",
    ]
    if held.get("shuffle"):
        notes.append("shuffle: items are always drawn in a seeded order")
    if held.get("random_init"):
        notes.append("random_init: the search starts from the best plain merge, or each `initial`")
    study = {
        "base_model": base,
        "models": models,
        "space": _space(genome, base, models, notes, f"{where}: genome"),
        "evaluate": evaluate,
        "search": {"optimizer": "cmaes", "trials": _TRIALS, "seed": 0},
        "output": {"dtype": "bfloat16"},
    }
    return ImportedStudy(study, tuple(notes))


def _fields(document: Any, kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The document without nulls, each value of its kind."""
    held = {k: v for k, v in yaml_file.mapping(document, where).items() if v is not None}
    yaml_file.check_keys(held, kinds, where)
    words = {bool: "true or false", int: "a whole number", list: "a list", str: "text"}
    for key, value in held.items():
        kind = kinds[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            expected = words.get(kind, "a mapping")
            raise UserError(f"{where}: {key}: expected {expected}, but got {value!r}")
    return held


def _genome(document: Any, folder: Path, where: str) -> _Genome:
    kinds = {
        "models": list,
        "merge_method": str,
        "base_model": (str, Mapping),
        "tokenizer_source": str,
        "layer_granularity": int,
        "normalize": bool,
        "allow_negative_weights": bool,
        "filters": list,
        "smooth": bool,
    }
    held = _fields(document, kinds, where)
    for key in ("models", "merge_method"):
        if not held.get(key):
            raise UserError(f"{where}: expected a key '{key}'")
    if held["merge_method"] not in _METHODS:
        raise UserError(f"{where}: {unknown('merge_method', held['merge_method'], _METHODS)}")
    if not all(isinstance(pattern, str) and pattern for pattern in held.get("filters", [])):
        raise UserError(f"{where}: filters: expected texts, but got {held['filters']!r}")

    def named(value: Any, key: str) -> str:
        name = spelled(value, f"{where}: {key}")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: {key}: expected a folder or a hub id but got {value!r}")
        return model_name.relocated(name, folder)

    held["models"] = [named(model, f"models[{i}]") for i, model in enumerate(held["models"])]
    if "base_model" in held:
        held["base_model"] = named(held["base_model"], "base_model")
    if held.get("tokenizer_source") not in (None, "base", "union"):
        held["tokenizer_source"] = named(held["tokenizer_source"], "tokenizer_source")
    return _Genome(**held)


def _models(genome: _Genome, notes: list[str], where: str) -> tuple[str, list[str]]:
    """The study's base model, and the models that are merged."""
    base, models = genome.base_model, genome.models
    if methods.get(genome.merge_method).takes_base and genome.merge_method != "slerp":
        if base is None:
            raise UserError(f"{where}: {genome.merge_method} needs a base_model")
        if base in models:
            notes.append("base_model takes no part among the models: its genes changed nothing")
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
        notes.append("linear: base_model lends config and tokenizer, mergekit-evolve fails on it")
    return base or models[0], models


def _space(
    genome: _Genome, base: str, models: Sequence[str], notes: list[str], where: str
) -> dict[str, Any]:
    """The recipe with a hole for every gene."""
    spec = methods.get(genome.merge_method)
    groups, span = 1, 0
    if genome.layer_granularity > 0:
        depth = layer_count(read_config(resolve(genome.models[0])))
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
    own = {"weight": _filtered({**weight, **knots}, genome.filters)}
    if any(parameter.name == "density" for parameter in spec.parameters):
        own["density"] = _filtered({**_DENSITY, **knots}, genome.filters)
    shared: dict[str, Any] = {}
    if genome.merge_method == "slerp":
        own, shared = {}, {"t": {"low": 0.0, "high": 1.0, "initial": 0.5}}
    else:
        notes.append(f"weights lie in [{weight['low']:g}, 1.5]; mergekit-evolve bounds none")
    whole: dict[str, Any] = {"merge_method": genome.merge_method}
    if genome.base_model is not None or spec.takes_base:
        whole["base_model"] = base
    if groups > 1 and not knots:
        whole["slices"] = [
            {
                "sources": [
                    _entry(model, own, {"layer_range": [i * span, (i + 1) * span]})
                    for model in models
                ],
                **({"parameters": shared} if shared else {}),
            }
            for i in range(groups)
        ]
        shared = {}
    else:
        whole["models"] = [_entry(model, own, {}) for model in models]
    if any(parameter.name == "normalize" for parameter in spec.parameters):
        default = genome.merge_method != "task_arithmetic"
        shared = {**shared, "normalize": default if genome.normalize is None else genome.normalize}
    whole |= {"parameters": shared} if shared else {}
    if genome.tokenizer_source is not None:
        whole["tokenizer_source"] = genome.tokenizer_source
    return whole


def _entry(model: str, own: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, **more, **({"parameters": dict(own)} if own else {})}


def _filtered(hole: Mapping[str, Any], filters: Sequence[str] | None) -> Any:
    """One hole, or one for each filter and one for the rest."""
    if not filters:
        return dict(hole)
    return [*({"filter": f, "value": dict(hole)} for f in filters), {"value": dict(hole)}]


def _tasks(listed: Any, where: str) -> list[dict[str, Any]]:
    if not listed:
        raise UserError(f"{where}: expected one or more tasks")
    result = []
    for i, task in enumerate(listed):
        place = f"{where}: tasks[{i}]"
        held = {"name": task} if isinstance(task, str) else task
        held = _fields(held, {"name": str, "weight": (int, float), "metric": str}, place)
        if "name" not in held:
            raise UserError(f"{place}: expected a name")
        metric, weight = held.get("metric", "acc,none"), float(held.get("weight", 1.0))
        if not math.isfinite(weight):
            raise UserError(f"{place}: weight: expected a number but got {weight}")
        if weight < 0 and not any(word in metric for word in _LOWER_IS_BETTER):
            raise UserError(
                f"{place}: weight: a study maximises what is better upwards and takes no negative "
                f"weight for {metric}, but got {weight:g}"
            )
        result.append({"name": held["name"], "metric": metric, "weight": abs(weight)})
    return result


def _chat(held: Mapping[str, Any], base: str, notes: list[str]) -> bool:
    """Whether prompts are chats: mergekit-evolve's default, where the tokenizer can."""
    if not held.get("apply_chat_template", True):
        return False
    if not held.get("fewshot_as_multiturn", True):
        notes.append("fewshot_as_multiturn: few-shot examples of a chat are always turns of it")
    if "apply_chat_template" in held or _has_chat_template(base):
        return True
    notes.append("apply_chat_template: false, for the tokenizer of base_model has no chat template")
    return False


def _has_chat_template(model: str) -> bool:
    folder = resolve(model)
    file = folder / "tokenizer_config.json"
    told = file.read_text(encoding="utf-8") if file.is_file() else ""
    return (folder / "chat_template.jinja").is_file() or '"chat_template"' in told


def _limit(held: Mapping[str, Any], notes: list[str], where: str) -> int:
    limit = held.get("limit")
    if limit is None:
        notes.append(
            f"limit: mergekit-evolve scores every candidate on all items, a study on "
            f"{_PER_GENERATION} of each task, drawn anew for each generation"
        )
        return _PER_GENERATION
    if limit < 1:
        raise UserError(f"{where}: limit: expected at least 1, but got {limit}")
    notes.append("limit: so many items of each task, drawn anew for each generation, not the first")
    return int(limit)
