"""Reads a recipe from plain data and refuses what is wrong by the name of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.architecture import COMPONENTS
from evomerge.checkpoint.dtypes import FLOAT_NAMES
from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown
from evomerge.recipe import nested as nesting
from evomerge.recipe import tokenizer as token_rows
from evomerge.recipe.data import (
    CHAT_TEMPLATES,
    HEADS,
    UNMATCHED,
    Block,
    Entry,
    RecipeData,
    Setting,
    Slice,
    Source,
)

R = TypeVar("R", bound=RecipeData)

_KEYS = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "blocks",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "seed",
    "heads",
    "unmatched",
    "merges",
)


def read(kind: type[R], document: Any, where: str) -> R:
    """Check a recipe written as a mapping.

    Args:
        kind: The class of recipe to make, for the recipe and for each of its `merges`.
        document: The mapping.
        where: How messages name it.

    Raises:
        UserError: A key is unknown, a value out of its range, a model missing; names the key.
    """
    document = nesting.flattened(model_name.joined(document, where), where)
    return _Reader(where).recipe(kind, document)


class _Reader:
    """Reads one document; knows where it is, so that every message can say so."""

    def __init__(self, where: str):
        self.where = where

    def recipe(self, kind: type[R], document: Any) -> R:
        document = yaml_file.mapping(document, self.where)
        yaml_file.check_keys(document, _KEYS, self.where)
        document = {key: value for key, value in document.items() if value is not None}
        if "merge_method" not in document:
            raise UserError(f"{self.where}: expected a merge_method, one of {_known_methods()}")
        method = self._method(document["merge_method"], "merge_method")
        both = "models" in document and "slices" in document
        if both or not (document.get("models") or document.get("slices")):
            raise UserError(f"{self.where}: expected either models or slices, and only one of them")
        base = document.get("base_model")
        blocks = tuple(
            self._block(item, method, f"blocks[{i}]")
            for i, item in enumerate(self._list(document.get("blocks"), "blocks"))
        )
        used = list(dict.fromkeys([method, *(block.merge_method for block in blocks)]))
        models = tuple(
            self._entry(item, used, f"models[{i}]")
            for i, item in enumerate(self._list(document.get("models"), "models"))
        )
        slices = tuple(
            self._slice(item, used, f"slices[{i}]")
            for i, item in enumerate(self._list(document.get("slices"), "slices"))
        )
        if blocks and slices:
            raise UserError(f"{self.where}: blocks go with models, not with slices")
        for key in ("heads", "unmatched"):
            if slices and key in document:
                raise UserError(f"{self.where}: {key} goes with models, not with slices")
        recipe = kind(
            merge_method=method,
            models=models,
            slices=slices,
            base_model=None if base is None else self._model(base, "base_model"),
            parameters=self._parameters(document.get("parameters"), used, "parameters"),
            blocks=blocks,
            dtype=self._dtype(document.get("dtype", "float32"), "dtype"),
            out_dtype=self._dtype(document["out_dtype"], "out_dtype")
            if "out_dtype" in document
            else None,
            tokenizer_source=self._tokenizer(document.get("tokenizer_source")),
            chat_template=self._chat_template(document.get("chat_template")),
            seed=self._integer(document.get("seed", 0), "seed"),
            heads=self._word(document.get("heads", "merge"), HEADS, "heads"),
            unmatched=self._word(document.get("unmatched", "error"), UNMATCHED, "unmatched"),
            merges={
                name: _Reader(f"{self.where}: merges.{name}").recipe(kind, inner)
                for name, inner in (document.get("merges") or {}).items()
            },
        )
        self._check_counts(recipe)
        named = recipe.inputs
        if recipe.tokenizer_source is not None:
            if "tokenizer" in document:
                raise UserError(f"{self.where}: expected tokenizer_source or tokenizer, not both")
            token_rows.source_name(
                recipe.tokenizer_source, named, f"{self.where}: tokenizer_source"
            )
        if "tokenizer" in document:
            rule = token_rows.read(document["tokenizer"], named, f"{self.where}: tokenizer")
            recipe = replace(recipe, tokenizer=rule)
        return recipe

    def _check_counts(self, recipe: RecipeData) -> None:
        """Every method gets its base and its number of models, each listed once."""
        groups = (
            [([e.model for e in recipe.models], recipe.base_model, "models")]
            if recipe.models
            else []
        )
        groups += [
            ([s.model for s in part.sources], part.base_model or recipe.base_model, f"slices[{i}]")
            for i, part in enumerate(recipe.slices)
        ]
        for models, base, at in groups:
            if len(set(models)) != len(models) and not recipe.slices:
                twice = next(model for model in models if models.count(model) > 1)
                raise UserError(f"{self.where}: {at}: {twice} appears twice")
            for name in recipe.method_names:
                spec = methods.get(name)
                if spec.takes_base and not spec.base_optional and base is None:
                    raise UserError(f"{self.where}: {name} needs a base_model")
                if spec.takes_factors:
                    self._check_hosts(name, models, base, at)
                count = len([m for m in models if m != base]) if spec.takes_base else len(models)
                try:
                    spec.check_models(count)
                except UserError as error:
                    raise UserError(f"{self.where}: {at}: {error}") from None
        for i, block in enumerate(recipe.blocks):
            for entry in block.models:
                if entry.model not in [e.model for e in recipe.models]:
                    listed = [e.model for e in recipe.models]
                    raise UserError(
                        f"{self.where}: blocks[{i}].models: {unknown('model', entry.model, listed)}"
                    )

    def _check_hosts(self, method: str, models: Sequence[str], base: str | None, at: str) -> None:
        """A method that sees factors needs its adapters on the base itself."""
        for model in models:
            host, adapter = model_name.split(model)
            if adapter is not None and host != base:
                raise UserError(
                    f"{self.where}: {at}: {method} needs adapters on its base_model {base}, but "
                    f"got one on {host}"
                )

    def _block(self, item: Any, method: str, at: str) -> Block:
        document = yaml_file.mapping(item, f"{self.where}: {at}")
        yaml_file.check_keys(
            document,
            ("layers", "components", "merge_method", "parameters", "models"),
            f"{self.where}: {at}",
        )
        block_method = self._method(document.get("merge_method", method), f"{at}.merge_method")
        components = document.get("components")
        if components is not None:
            components = [components] if isinstance(components, str) else self._list(components, at)
            for component in components:
                if component not in COMPONENTS:
                    raise UserError(
                        f"{self.where}: {at}: {unknown('component', str(component), COMPONENTS)}"
                    )
        layers = document.get("layers")
        return Block(
            merge_method=block_method,
            layers=None if layers is None else self._range(layers, f"{at}.layers"),
            components=None if components is None else tuple(components),
            parameters=self._parameters(
                document.get("parameters"), [block_method], f"{at}.parameters"
            ),
            models=tuple(
                self._entry(entry, [block_method], f"{at}.models[{i}]")
                for i, entry in enumerate(self._list(document.get("models"), f"{at}.models"))
            ),
        )

    def _entry(self, item: Any, used: Sequence[str], at: str) -> Entry:
        if isinstance(item, str):
            return Entry(self._model(item, at))
        document = yaml_file.mapping(item, f"{self.where}: {at}")
        yaml_file.check_keys(document, ("model", "parameters"), f"{self.where}: {at}")
        if "model" not in document:
            raise UserError(f"{self.where}: {at}: expected a model")
        model = self._model(document["model"], f"{at}.model")
        parameters = self._parameters(
            document.get("parameters"), used, f"{at}.parameters", per_model=True
        )
        return Entry(model, parameters)

    def _slice(self, item: Any, used: Sequence[str], at: str) -> Slice:
        document = yaml_file.mapping(item, f"{self.where}: {at}")
        yaml_file.check_keys(
            document, ("sources", "base_model", "parameters"), f"{self.where}: {at}"
        )
        sources = []
        for i, entry in enumerate(self._list(document.get("sources"), f"{at}.sources")):
            source_at = f"{at}.sources[{i}]"
            source = yaml_file.mapping(entry, f"{self.where}: {source_at}")
            yaml_file.check_keys(
                source, ("model", "layer_range", "parameters"), f"{self.where}: {source_at}"
            )
            for key in ("model", "layer_range"):
                if key not in source:
                    raise UserError(f"{self.where}: {source_at}: expected a {key}")
            sources.append(
                Source(
                    self._model(source["model"], f"{source_at}.model"),
                    self._range(source["layer_range"], f"{source_at}.layer_range"),
                    self._parameters(
                        source.get("parameters"), used, f"{source_at}.parameters", True
                    ),
                )
            )
        lengths = {source.layer_range[1] - source.layer_range[0] for source in sources}
        if len(lengths) != 1:
            raise UserError(
                f"{self.where}: {at}: expected sources of one length, got {sorted(lengths)} layers"
            )
        base = document.get("base_model")
        return Slice(
            tuple(sources),
            self._model(base, f"{at}.base_model") if base else None,
            self._parameters(document.get("parameters"), used, f"{at}.parameters"),
        )

    def _parameters(
        self, document: Any, used: Sequence[str], at: str, per_model: bool = False
    ) -> dict[str, Setting]:
        """Check parameters against the methods in use; global ones may not stand under a model."""
        if document is None:
            return {}
        document = yaml_file.mapping(document, f"{self.where}: {at}")
        specs = [methods.get(name) for name in used]
        declared = {p.name: p for spec in reversed(specs) for p in spec.parameters}
        result = {}
        for name, setting in document.items():
            parameter = declared.get(name)
            if parameter is None and name == "int8_mask":
                continue  # of mergekit: how it stores masks, never what comes out
            if parameter is None:
                kind = f"parameter of {', '.join(used)}"
                raise UserError(f"{self.where}: {at}: {unknown(kind, name, declared)}")
            if per_model and not parameter.per_model:
                raise UserError(
                    f"{self.where}: {at}.{name}: holds for all models at once; "
                    "move it to the recipe's parameters"
                )
            owner = next(spec for spec in specs if name in {p.name for p in spec.parameters})
            result[name] = self._setting(setting, owner, name, f"{at}.{name}")
        return result

    def _setting(self, setting: Any, owner: methods.MethodSpec, name: str, at: str) -> Setting:
        """One setting in normal form: numbers as floats, conditional values as a list."""
        if isinstance(setting, Mapping):
            setting = [setting]
        if isinstance(setting, list):
            if not setting:
                raise UserError(f"{self.where}: {at}: expected at least one value, but got []")
            if any(isinstance(item, Mapping) for item in setting):
                cases = []
                for item in setting:
                    case = yaml_file.mapping(item, f"{self.where}: {at}")
                    yaml_file.check_keys(case, ("value", "filter"), f"{self.where}: {at}")
                    if "value" not in case:
                        raise UserError(f"{self.where}: {at}: expected a value beside the filter")
                    pattern = case.get("filter")
                    if pattern is not None and not isinstance(pattern, str):
                        raise UserError(
                            f"{self.where}: {at}: expected a filter of text, got {pattern!r}"
                        )
                    inner = case["value"] if isinstance(case["value"], list) else [case["value"]]
                    if any(isinstance(one, Mapping | list) for one in inner):
                        raise UserError(
                            f"{self.where}: {at}: expected a value or a list of values beside the "
                            f"filter, got {case['value']!r}"
                        )
                    value = self._setting(case["value"], owner, name, at)
                    cases.append({"value": value, **({"filter": pattern} if pattern else {})})
                return cases
            return [self._scalar(item, owner, name, at) for item in setting]
        return self._scalar(setting, owner, name, at)

    def _scalar(self, value: Any, owner: methods.MethodSpec, name: str, at: str) -> Any:
        try:
            return owner.check(name, value)
        except UserError as error:
            raise UserError(f"{self.where}: {at}: {error}") from None
        except OverflowError:
            raise UserError(f"{self.where}: {at}: expected a number that a float holds") from None

    def _method(self, name: Any, at: str) -> str:
        if name not in methods.names():
            raise UserError(
                f"{self.where}: {at}: {unknown('merge method', str(name), methods.names())}"
            )
        return str(name)

    def _model(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.where}: {at}: expected a folder or a hub id but got {value!r}")
        return value

    def _range(self, value: Any, at: str) -> tuple[int, int]:
        whole = isinstance(value, list | tuple) and len(value) == 2
        if not whole or not all(type(n) is int for n in value) or not 0 <= value[0] < value[1]:
            raise UserError(
                f"{self.where}: {at}: expected [first, end], 0 <= first < end, but got {value!r}"
            )
        return (value[0], value[1])

    def _dtype(self, value: Any, at: str) -> str:
        name = str(value).removeprefix("torch.")
        if name not in FLOAT_NAMES:
            raise UserError(f"{self.where}: {at}: {unknown('dtype', name, FLOAT_NAMES)}")
        return name

    def _tokenizer(self, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.where}: tokenizer_source: expected base, union or a model")
        return value

    def _chat_template(self, value: Any) -> str | None:
        whole = isinstance(value, str) and "{" in value and len(value) >= 20
        if value is not None and not whole and value not in CHAT_TEMPLATES:
            raise UserError(
                f"{self.where}: chat_template: expected one of {', '.join(CHAT_TEMPLATES)}, or a "
                f"Jinja template of 20 characters or more, but got {value!r}"
            )
        return None if value is None else str(value)

    def _word(self, value: Any, known: Sequence[str], at: str) -> str:
        if value not in known:
            raise UserError(f"{self.where}: {unknown(at, str(value), known)}")
        return str(value)

    def _integer(self, value: Any, at: str) -> int:
        if type(value) is not int or not 0 <= value < 2**63:
            raise UserError(f"{self.where}: {at}: expected a whole number >= 0, but got {value!r}")
        return value

    def _list(self, value: Any, at: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise UserError(f"{self.where}: {at}: expected a list but got {value!r}")
        return value


def _known_methods() -> str:
    return ", ".join(sorted(methods.names()))
