"""Reads mergekit's configurations as recipes, with a note for each key whose meaning changes.

A recipe is a mergekit configuration, so that most pass through as they are. What mergekit spells in
other ways (``modules``, models as mappings, a base merged as one more input) is rewritten; what it
would ignore in silence is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe import nested as nesting
from evomerge.recipe.recipe import Recipe

_UNUSED = {"task_arithmetic": ("density", "rescale")}  # mergekit's, without effect there


@dataclass(frozen=True)
class Imported:
    """A recipe, and where its result may differ from mergekit's, in sentences."""

    recipe: Recipe
    notes: tuple[str, ...]


def from_mergekit(documents: Sequence[Any], folder: Path, where: str = "mergekit") -> Imported:
    """Read a mergekit 0.1.5 configuration as a recipe; several, with names, as for mergekit-multi.

    Args:
        documents: The configurations as plain data, left as they were: one, or several that name
            each other, which become the recipe's `merges`.
        folder: What its relative folders are relative to.
        where: What messages call it.

    Raises:
        UserError: A key is unknown, has no counterpart here, or is wrong; names it.
    """
    notes: dict[str, None] = {}
    ours = [_ours(document, folder, where, notes) for document in documents]
    recipe = Recipe.from_dict(
        ours[0] if len(ours) == 1 else nesting.of_documents(ours, where), where
    )
    if recipe.base_model is None:
        notes[
            "without base_model mergekit takes config and tokenizer from any model, evomerge from "
            f"the first, {model_name.public(recipe.donor)}"
        ] = None
    return Imported(recipe, tuple(notes))


def _ours(document: Any, folder: Path, where: str, notes: dict[str, None]) -> dict[str, Any]:
    """One configuration in our words; what changes meaning goes to the notes."""
    config = yaml_file.present(document, where)
    config = nesting.relocate(_models(_without_modules(config, where), where), folder)
    method = config.get("merge_method")
    if method in methods.names():
        config = _without_unused(config, method, notes)
        config = _with_base_among_models(config, methods.get(method), notes)
        if methods.get(method).stochastic:
            notes[
                f"{method} drops at random: mergekit would draw other masks than evomerge, whose "
                "`seed` decides them"
            ] = None
    _noting_dtypes(config, notes)
    return config


def spelled(value: Any, where: str) -> Any:
    """Return a model in our words: mergekit also writes ``{model: {path, revision}, lora: ...}``.

    Raises:
        UserError: It asks for another architecture, or is no such mapping.
    """
    if not isinstance(value, Mapping):
        return value
    fields = yaml_file.present(value, where)
    yaml_file.check_keys(fields, ("model", "path", "revision", "lora"), where)
    if "lora" in fields:
        base, lora = (spelled(fields[key], where) for key in ("model", "lora"))
        return f"{base}+{lora}"
    if "model" in fields:
        return spelled(fields["model"], where)
    if not isinstance(fields.get("path"), str):
        raise UserError(f"{where}: expected a path")
    return fields["path"] + (f"@{fields['revision']}" if "revision" in fields else "")


def _without_modules(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the one module's content, or what all say alike, in the configuration's own place."""
    modules = document.pop("modules", None)
    if modules is None:
        return document
    modules = yaml_file.mapping(modules, f"{where}: modules")
    different = [one for one in modules.values() if one != next(iter(modules.values()))]
    by_layer = any(isinstance(one, Mapping) and one.get("slices") for one in modules.values())
    several = len(modules) > 1 and (different or by_layer)
    if not modules or several or "models" in document or "slices" in document:
        raise UserError(
            f"{where}: modules: expected one module, or several that list the same models with the "
            "same parameters, and neither models nor slices beside them, but got "
            f"{', '.join(modules) or 'none'}; a module's name does not say which tensors it has: "
            "write models, with filters on tensor names"
        )
    name, content = next(iter(modules.items()))
    content = yaml_file.mapping(content, f"{where}: modules.{name}")
    yaml_file.check_keys(content, ("models", "slices", "parameters"), f"{where}: modules.{name}")
    inner = yaml_file.mapping(content.pop("parameters", None) or {}, f"{where}: modules.{name}")
    outer = yaml_file.mapping(document.pop("parameters", None) or {}, f"{where}: parameters")
    both = {key: _layered(inner[key], outer.get(key)) for key in inner}
    return {**document, **content, **({"parameters": {**outer, **both}} if inner | outer else {})}


def _layered(inner: Any, outer: Any) -> Any:
    """Put one setting before another, which counts where the first's filters match nothing."""
    cases = inner if isinstance(inner, list) else [inner]
    if outer is None or not all(isinstance(case, Mapping) for case in cases):
        return inner
    rest = outer if isinstance(outer, list) and isinstance(outer[0], Mapping) else [outer]
    return [*cases, *(case if isinstance(case, Mapping) else {"value": case} for case in rest)]


def _models(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the document with every model in our words."""
    result = dict(document)
    for key in ("base_model", "tokenizer_source"):
        if key in result:
            result[key] = spelled(result[key], f"{where}: {key}")
    if isinstance(result.get("tokenizer"), Mapping):
        result["tokenizer"] = _tokenizer(result["tokenizer"], f"{where}: tokenizer")
    if isinstance(result.get("models"), list):
        result["models"] = [
            _entry(entry, f"{where}: models[{i}]") for i, entry in enumerate(result["models"])
        ]
    if isinstance(result.get("slices"), list):
        result["slices"] = [
            _slice(part, f"{where}: slices[{i}]") for i, part in enumerate(result["slices"])
        ]
    return result


def _tokenizer(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the tokenizer block with every model in our words."""

    def source(value: Any, at: str) -> Any:
        if not isinstance(value, Mapping) or "kind" not in value:
            return spelled(value, at)
        fields = {key: item for key, item in value.items() if item is not None}
        return {**fields, **({"model": spelled(fields["model"], at)} if "model" in fields else {})}

    result = dict(block)
    if "source" in result:
        result["source"] = source(result["source"], f"{where}.source")
    if isinstance(result.get("tokens"), Mapping):
        result["tokens"] = {
            token: {**row, "source": source(row["source"], f"{where}.tokens[{token!r}]")}
            if isinstance(row, Mapping) and "source" in row
            else row
            for token, row in result["tokens"].items()
        }
    return result


def _slice(part: Any, where: str) -> Any:
    if not isinstance(part, Mapping):
        return part
    part = _entry(part, where)
    if part.get("base_model") is not None:
        part["base_model"] = spelled(part["base_model"], f"{where}.base_model")
    if isinstance(part.get("sources"), list):
        part["sources"] = [
            _entry(entry, f"{where}.sources[{i}]") for i, entry in enumerate(part["sources"])
        ]
    return part


def _entry(entry: Any, where: str) -> Any:
    """Return an entry without its nulls, which mergekit reads as absent."""
    if not isinstance(entry, Mapping):
        return entry
    fields = {key: value for key, value in entry.items() if value is not None}
    if "model" in fields:
        fields["model"] = spelled(fields["model"], f"{where}.model")
    return fields


def _without_unused(document: Any, method: str, notes: dict[str, None]) -> Any:
    """Return the document without parameters that mergekit knows and makes nothing of."""
    unused = _UNUSED.get(method, ())

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        result = {key: walk(item) for key, item in value.items()}
        parameters = result.get("parameters")
        if isinstance(parameters, Mapping):
            for name in sorted(set(unused) & parameters.keys()):
                notes[f"{name} is left out: mergekit's {method} makes no use of it"] = None
            result["parameters"] = {k: v for k, v in parameters.items() if k not in unused}
        return result

    return walk(document)


def _with_base_among_models(
    document: dict[str, Any], spec: methods.MethodSpec, notes: dict[str, None]
) -> dict[str, Any]:
    """Add the base to the models, as mergekit does for methods that take none."""
    base, models = document.get("base_model"), document.get("models")
    if spec.takes_base or base is None or not isinstance(models, list):
        return document
    names = [entry.get("model") if isinstance(entry, Mapping) else entry for entry in models]
    if base in names:
        return document
    notes[f"{spec.name} takes no base: base_model is one more model, as in mergekit"] = None
    return {**document, "models": [*models, {"model": base}]}


def _noting_dtypes(document: Mapping[str, Any], notes: dict[str, None]) -> None:
    dtype = str(document.get("dtype", "")).removeprefix("torch.")
    if dtype in ("bfloat16", "float16"):
        notes[
            f"dtype {dtype}: parents are rounded to it as by mergekit, but arithmetic runs in "
            "float32, which loses less"
        ] = None
    if not dtype and "out_dtype" not in document:
        notes["no dtype is given: computed in float32, written in what the parents are in"] = None
