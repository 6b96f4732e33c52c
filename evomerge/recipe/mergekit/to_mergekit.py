"""Writes recipes as mergekit 0.1.5 configurations: one, or several where methods are mixed.

A recipe without blocks is a mergekit configuration already. Blocks become slices with explicit
numbers. Several methods become several documents for ``mergekit-multi``: a whole merge per method,
and a linear merge that takes every tensor, with weight 1, from the merge that its method made.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.dtypes import FLOAT_NAMES
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe import nested as nesting
from evomerge.recipe.data import PARENTS
from evomerge.recipe.mergekit.slices import Stack, setting_of, source_of
from evomerge.recipe.parameters import resolve_parameters
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.values import levels_of, scalars

_OURS = {  # (parameter, our value that mergekit does not have): what it does instead
    ("rescale", "inverse"): "gives back the L1 norm (rescale: true)",
    ("select_applies_to", "weights"): "masks the deltas (select_applies_to: deltas)",
    ("consensus", "count"): "elects signs by sums (consensus: sum)",
    ("aggregate", "sum"): "takes means, or sums by normalize: false (aggregate: mean)",
    ("aggregate", "max"): "takes means (aggregate: mean)",
    ("zero_sign", "majority"): "elects +1 in a tie (zero_sign: plus)",
}


@dataclass(frozen=True)
class Document:
    """One mergekit configuration.

    Attributes:
        name: What mergekit-multi calls its result; ``None`` for the final one.
        content: The configuration, as plain data.
        notes: Where its result may differ from ours, in sentences.
    """

    name: str | None
    content: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def to_mergekit(recipe: Recipe, tensor_names: Sequence[str]) -> list[Document]:
    """Write a recipe for mergekit, the document of the result last.

    Arithmetic is asked for in float32, in which ours runs.

    Args:
        recipe: The recipe.
        tensor_names: The names of the result's tensors (of the donor's, for a recipe with blocks).

    Raises:
        UserError: mergekit cannot express the recipe; says why.
    """
    for model in recipe.model_names:
        for part in model_name.parts_of(model):
            if nesting.is_file(part):
                raise UserError(f"{part}: mergekit takes no recipe for a model; build it first")
            if "+" not in part and ("@" not in part or not os.path.isdir(os.path.expanduser(part))):
                continue
            raise UserError(
                f"{part}: mergekit takes what follows + or @ in a path for an adapter or a "
                "revision; rename the folder, or link to it"
            )
    for one in [*recipe.merges.values(), recipe]:
        if one.config_donor != one.donor:
            raise UserError(
                f"config: {one.config}: mergekit takes the config of base_model; build the recipe"
            )
        if (one.heads, one.unmatched) != ("merge", "error"):
            raise UserError(
                "heads, unmatched: mergekit has no such choice; build the recipe instead"
            )
    for name in recipe.merges:
        if name in (*methods.names(), "base", "union", *FLOAT_NAMES):
            raise UserError(
                f"merges.{name}: mergekit-multi takes every {name} in its file for this merge; "
                "give it another name"
            )
    inner = [
        document
        for name, merge in recipe.merges.items()
        for document in _documents(merge, tensor_names, name)
    ]
    return [*inner, *_documents(recipe, tensor_names, None)]


def _documents(recipe: Recipe, tensor_names: Sequence[str], name: str | None) -> list[Document]:
    """Return one recipe, its merges left to others; the document of its result has the name."""
    if not recipe.blocks:
        return [_plain(recipe, tensor_names, name)]
    tensors = Stack.read(tensor_names)
    levels_by_name = {name: levels_of(recipe, name, tensors.depth) for name in tensor_names}
    used = list(dict.fromkeys(levels.method for levels in levels_by_name.values()))
    stages = {
        method: _stage(
            recipe,
            method,
            tensors,
            [n for n in levels_by_name if levels_by_name[n].method == method],
        )
        for method in used
    }
    if len(used) == 1:
        return [_document(recipe, used, stages[used[0]], name)]
    prefix = "" if name is None else f"{name}-"
    named = {method: f"{prefix}merged-by-{method}" for method in used}
    documents = [_document(recipe, [m], stages[m], named[m]) for m in used]
    selection: dict[str, Any] = {
        "merge_method": "linear",
        "base_model": named[used[0]],
        "slices": tensors.slices(
            lambda part: [
                _selected(
                    named[method], [n for n in part if levels_by_name[n].method == method], part
                )
                for method in used
                if any(levels_by_name[n].method == method for n in part)
            ],
            key=lambda name: levels_by_name[name].method,
        ),
        "parameters": {"normalize": False},
        "dtype": "float64" if recipe.dtype == "float64" else "float32",
        "out_dtype": _written_in(recipe),
        **({"chat_template": recipe.chat_template} if recipe.chat_template is not None else {}),
    }
    return [*documents, Document(name, selection)]


def as_yaml(documents: Sequence[Document]) -> str:
    """Write the documents as one file, with the command to run and their notes as comments."""
    command = "mergekit-yaml THIS_FILE OUT"
    if len(documents) > 1:
        command = "mergekit-multi THIS_FILE -I /ABSOLUTE/SCRATCH/FOLDER --out-path OUT"
    if any(_has_adapter(document.content) for document in documents):
        command += " --lora-merge-cache /ABSOLUTE/SCRATCH/LORA"  # without it mergekit refuses
    notes = dict.fromkeys(note for document in documents for note in document.notes)
    head = "".join(f"# {line}\n" for line in [f"Run with mergekit 0.1.5: {command}", *notes])
    return head + "---\n".join(
        yaml_file.write({**({"name": d.name} if d.name else {}), **d.content}) for d in documents
    )


def _has_adapter(content: Any) -> bool:
    """Return whether a model is named as ``base+adapter`` anywhere in a document."""
    if isinstance(content, Mapping):
        named = (content.get(key) for key in ("model", "base_model"))
        return any("+" in name for name in named if isinstance(name, str)) or any(
            map(_has_adapter, content.values())
        )
    return isinstance(content, list) and any(map(_has_adapter, content))


def _written_in(recipe: Recipe) -> str:
    return "float32" if recipe.output_dtype == PARENTS else recipe.output_dtype


def _plain(recipe: Recipe, tensor_names: Sequence[str], name: str | None) -> Document:
    """Return a recipe without blocks: its own words, with the base where mergekit wants it."""
    spec, base = methods.get(recipe.merge_method), recipe.base_model
    content: dict[str, Any] = {}
    if recipe.slices:
        slices = []
        for part in recipe.slices:
            of_slice = part.base_model or base
            listed = [source.model for source in part.sources]
            if len(set(listed)) != len(listed):
                raise UserError("mergekit takes each model only once in a slice")
            sources = [
                source_of(
                    s.model, s.layer_range, _unless(spec.takes_base and s.model == of_slice, s)
                )
                for s in part.sources
            ]
            if spec.takes_base and of_slice is not None and of_slice not in listed:
                sources.append(source_of(of_slice, part.sources[0].layer_range, {}))
            parameters = {"base_model": of_slice} if spec.takes_base and of_slice != base else {}
            shared = {"parameters": dict(part.parameters)} if part.parameters else {}
            slices.append({"sources": sources, **parameters, **shared})
        content["slices"] = slices
    else:
        entries = [
            (entry.model, _unless(spec.takes_base and entry.model == base, entry))
            for entry in recipe.models
        ]
        if spec.takes_base and base is not None and base not in [model for model, _ in entries]:
            entries.append((base, {}))
        if base is None or base in [model for model, _ in entries]:
            content["models"] = [
                {"model": model, **({"parameters": dict(parameters)} if parameters else {})}
                for model, parameters in entries
            ]
        else:  # under `models` mergekit would merge a base that only gives config and tokenizer
            span = (0, Stack.read(tensor_names).depth)
            content["slices"] = [
                {"sources": [source_of(m, span, parameters) for m, parameters in entries]}
            ]
    if recipe.parameters:
        content["parameters"] = dict(recipe.parameters)
    return _document(recipe, [recipe.merge_method], content, name)


def _unless(is_base: bool, part: Any) -> Mapping[str, Any]:
    """Return a model's parameters; mergekit wants none for the base."""
    parameters: Mapping[str, Any] = {} if is_base else part.parameters
    return parameters


def _document(
    recipe: Recipe, used: Sequence[str], content: Mapping[str, Any], name: str | None = None
) -> Document:
    """Put the head and the tail of a configuration around its models or slices."""
    spec = methods.get(used[0])
    if not spec.in_mergekit:
        raise UserError(f"{spec.name}: mergekit 0.1.5 has no such method")
    _refuse_ours(content)
    notes = []
    if recipe.output_dtype == PARENTS:
        notes.append("No dtype is given: mergekit writes float32 here, evomerge what is stored.")
    if spec.stochastic:
        notes.append(
            f"{spec.name} drops at random: mergekit draws other masks than evomerge, by "
            "--random-seed; the numbers will differ."
        )
    tokenizer: dict[str, Any] = {}
    if recipe.vocabulary is not None:
        tokenizer = {"tokenizer": recipe.vocabulary.to_dict()}
        if recipe.vocabulary.source == "union":
            notes.append("mergekit adds a union's tokens in random order.")
    if recipe.chat_template is not None and name is None:
        tokenizer["chat_template"] = recipe.chat_template
    base = {"base_model": recipe.donor}  # else mergekit takes the config of any one model
    if spec.base_optional and recipe.base_model is None:
        base = {}  # else mergekit merges around it
        notes.append("Without base_model mergekit takes config and tokenizer from any one model.")
    whole = {
        "merge_method": spec.name,
        **base,
        **content,
        "dtype": "float64" if recipe.dtype == "float64" else "float32",
        "out_dtype": _written_in(recipe),
        **tokenizer,
    }
    return Document(name, whole, tuple(notes))


def _stage(recipe: Recipe, method: str, tensors: Stack, names: Sequence[str]) -> dict[str, Any]:
    """Write a whole merge by one method, with the values that `names` need."""
    spec = methods.get(method)
    models = [entry.model for entry in recipe.models]
    merged = [
        i for i, model in enumerate(models) if not (spec.takes_base and model == recipe.base_model)
    ]
    resolved = {
        name: resolve_parameters(
            levels_of(recipe, name, tensors.depth), name, [(m, name) for m in models], merged
        )
        for name in names
    }
    shared = {p.name for p in spec.parameters if not p.per_model}
    fixed = {  # equal everywhere: written once, at the end
        key: next(iter(resolved.values()))[key]
        for key in sorted(shared)
        if len({values[key] for values in resolved.values()}) == 1
    }
    anywhere = next(iter(resolved.values()))

    def sources(part: Sequence[str]) -> list[dict[str, Any]]:
        values_of_part = {n: resolved[n] for n in part if n in resolved}
        listed = []
        for at, i in enumerate(merged):
            parameters_of_model = {
                p.name: setting_of({n: v[p.name][at] for n, v in values_of_part.items()}, part)
                if values_of_part
                else anywhere[p.name][at]
                for p in spec.parameters
                if p.per_model
            }
            listed.append(
                {"model": models[i], "parameters": parameters_of_model}
                if parameters_of_model
                else {"model": models[i]}
            )
        base = recipe.base_model
        return [*listed, *([{"model": base}] if spec.takes_base and base else [])]

    def varying(part: Sequence[str]) -> dict[str, Any]:
        values_of_part = {n: resolved[n] for n in part if n in resolved}
        return {
            key: setting_of({n: v[key] for n, v in values_of_part.items()}, part)
            if values_of_part
            else anywhere[key]
            for key in sorted(shared - set(fixed))
        }

    slices = tensors.slices(
        sources, key=lambda n: _frozen(resolved[n]) if n in resolved else None, parameters=varying
    )
    return {"slices": slices, **({"parameters": fixed} if fixed else {})}


def _selected(stage: str, taken: Sequence[str], part: Sequence[str]) -> dict[str, Any]:
    """Return a source of the final merge: weight 1 for the tensors taken from it, else 0."""
    weights = {name: 1.0 if name in set(taken) else 0.0 for name in part}
    return {"model": stage, "parameters": {"weight": setting_of(weights, part)}}


def _frozen(values: Mapping[str, Any]) -> Hashable:
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(values.items()))


def _refuse_ours(content: Any) -> None:
    """Refuse the values that mergekit does not have, wherever they stand."""
    if isinstance(content, dict):
        for key, value in content.items():
            for (name, ours), instead in _OURS.items():
                if key == name and ours in scalars(value):
                    raise UserError(
                        f"{key}: {ours} does not exist in mergekit, which only {instead}"
                    )
            _refuse_ours(value)
    elif isinstance(content, list):
        for item in content:
            _refuse_ours(item)
