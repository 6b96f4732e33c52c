"""Reads mergekit-moe's configurations as recipes whose method is `moe`.

Their experts bring prompts; here they are rows of data in files beside the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.mergekit.from_mergekit import spelled
from evomerge.recipe.nested import relocate
from evomerge.recipe.recipe import Recipe

_KEYS = ("base_model", "gate_mode", "dtype", "experts", "experts_per_token", "architecture")
_EXPERT = ("source_model", "positive_prompts")
_NEUTRAL = {"negative_prompts": [], "noise_scale": 0, "residual_scale": 1}
_LAYOUTS = {"mixtral": "mixtral", "qwen": "qwen2_moe", "qwen3": "qwen3_moe"}


@dataclass(frozen=True)
class ImportedMixture:
    """A recipe, where it differs from mergekit-moe's result, and the files of rows that it names.

    Attributes:
        recipe: The recipe.
        notes: Sentences.
        rows: Content by the path that the recipe names.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    rows: Mapping[Path, str] = field(default_factory=dict)


def is_mixture_file(document: Any) -> bool:
    """Say whether a document is a configuration of mergekit-moe."""
    return isinstance(document, Mapping) and "experts" in document and "base_model" in document


def from_moe(
    document: Any, folder: Path, rows: Path, where: str = "mergekit-moe"
) -> ImportedMixture:
    """Read a mergekit-moe 0.1.5 configuration as a recipe.

    Args:
        document: The configuration as plain data.
        folder: What its relative folders are relative to.
        rows: The folder that files of prompts go into; nothing is written here.
        where: What messages call it.

    Raises:
        UserError: A key is unknown, has no counterpart here, or is wrong; names it.
    """
    config = yaml_file.present(document, where)
    if config.get("shared_experts"):
        raise UserError(
            f"{where}: shared_experts: their gates have no counterpart here; write `shared: SHARE` "
            "in the recipe's parameters, which has the base as the shared expert"
        )
    config.pop("shared_experts", None)
    yaml_file.check_keys(config, _KEYS, where)
    mode = str(config.get("gate_mode", "hidden"))
    router = {"hidden": "hidden", "random": "random", "uniform_random": "random"}.get(mode)
    if router is None:
        raise UserError(
            f"{where}: gate_mode: expected hidden, random or uniform_random, but got {mode}"
            + ("; its embeddings are no router here: write hidden" if mode == "cheap_embed" else "")
        )
    experts = _experts(config.get("experts"), where)
    names = list(dict.fromkeys(expert["source_model"] for expert in experts))
    if len(names) < len(experts) and len(names) > 1:
        raise UserError(
            f"{where}: experts: {len(experts)} experts of {len(names)} models: expected each model "
            "once, or one model for all of them"
        )
    files = {} if router == "random" else _files(experts, rows, where)
    models = [
        {"model": name, **({"data": files[name][0]} if name in files else {})} for name in names
    ]
    parameters = {"router": router, "top": config.get("experts_per_token", 2)}
    if len(names) < len(experts):
        parameters["experts"] = len(experts)
    if "architecture" in config:
        parameters["layout"] = _layout(config["architecture"], where)
    dtype = str(config.get("dtype") or "float32").removeprefix("torch.")
    ours = {
        "merge_method": "moe",
        "base_model": spelled(config.get("base_model"), f"{where}: base_model"),
        "models": models,
        "parameters": parameters,
        "dtype": "float32",
        **({} if dtype == "float32" else {"out_dtype": dtype}),
    }
    recipe = Recipe.from_dict(relocate(ours, folder), where)
    return ImportedMixture(recipe, _notes(router), {path: text for _, path, text in files.values()})


def _experts(listed: Any, where: str) -> list[dict[str, Any]]:
    """Return the experts without what changes nothing; what would have an effect is refused."""
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise UserError(f"{where}: experts: expected a list of models, but got {listed!r}")
    experts = []
    for i, one in enumerate(listed):
        at = f"{where}: experts[{i}]"
        expert = yaml_file.present(one, at)
        for key, neutral in _NEUTRAL.items():
            if expert.pop(key, neutral) != neutral:
                raise UserError(f"{at}.{key}: it has no counterpart here; leave it out")
        yaml_file.check_keys(expert, _EXPERT, at)
        expert["source_model"] = spelled(expert.get("source_model"), f"{at}.source_model")
        experts.append(expert)
    return experts


def _files(
    experts: Sequence[Mapping[str, Any]], rows: Path, where: str
) -> dict[str, tuple[dict[str, str], Path, str]]:
    """Return each model's rows: as the recipe names them, the path, and the text."""
    files = {}
    for i, expert in enumerate(experts):
        prompts = expert.get("positive_prompts")
        if not isinstance(prompts, list) or not prompts or not all(map(_is_text, prompts)):
            raise UserError(
                f"{where}: experts[{i}].positive_prompts: expected a list of texts, as gate_mode "
                f"is hidden, but got {prompts!r}"
            )
        text = "".join(
            json.dumps({"text": prompt}, ensure_ascii=False) + "\n" for prompt in prompts
        )
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        path = rows.absolute() / f"{sha256[:16]}.jsonl"
        files[expert["source_model"]] = ({"file": str(path), "sha256": sha256}, path, text)
    return files


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _layout(name: Any, where: str) -> str:
    if name not in _LAYOUTS:
        raise UserError(
            f"{where}: architecture: expected one of {', '.join(_LAYOUTS)}, but got {name!r}"
        )
    return _LAYOUTS[str(name)]


def _notes(router: str) -> tuple[str, ...]:
    if router == "random":
        return (
            "routers are drawn by the recipe's `seed`, with a deviation of .02: mergekit-moe draws "
            "others",
        )
    return (
        "routers are the mean direction of what comes into each MLP, over all tokens of prompts "
        "as the expert reads them: mergekit-moe takes the layer's input at the last position, as "
        "the base reads it, so that the numbers will differ",
    )
