"""A recipe holds one fully specified merge; this file has its fields, their plain form and digest.

It knows neither methods nor torch: reports and journals read recipes by it. `recipe.Recipe` stands
above it and checks what it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from evomerge.checkpoint.architecture import COMPONENTS, WIDER
from evomerge.checkpoint.dtypes import FLOAT_NAMES
from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown
from evomerge.recipe.rows import AS_USUAL, Calibration, Data
from evomerge.recipe.tokenizer import Tokenizer

Setting = Any  # a scalar | a gradient [numbers] | [{value, filter}, ...]
Parameters = Mapping[str, Setting]

# what becomes of a classifier's or a language model's head, and of tensors that models do not share
Heads = Literal["merge", "base", "drop"]
Unmatched = Literal["error", "base", "drop", "union"]
PARENTS = "parents"  # as out_dtype, where none is given: what the parents are stored in
# Keys whose value is a model.
MODEL_KEYS = ("model", "base_model", "config", "tokenizer_source", "source")
CHAT_TEMPLATES = ("auto", "alpaca", "chatml", "exaone", "llama3", "mistral")


@dataclass(frozen=True)
class _Part:
    """A part of a recipe, in which nulls are absent, as for mergekit.

    The order of the fields is that in which they are written.
    """

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[_Part], Any]:
        """Return the class to make, and the mapping to make it of."""
        return cls, yaml_file.present(value, where)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data without defaults, but with the dtype; `kind_of` takes it back."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            name: _plain(value)
            for name, (value, default) in values.items()
            if name == "dtype" or value not in (default, {})
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.to_dict() if isinstance(value, _Part | Tokenizer | Data | Calibration) else value


def _model(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: expected a folder or a hub id but got {value!r}")
    return value


def _range(value: Any, where: str) -> tuple[int, int]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(type(n) is int for n in value) or not 0 <= value[0] < value[1]:
        raise UserError(f"{where}: expected [first, end], 0 <= first < end, but got {value!r}")
    return (value[0], value[1])


def _components(value: Any, where: str) -> tuple[str, ...]:
    components = [value] if isinstance(value, str) else value
    if not isinstance(components, list | tuple):
        raise UserError(f"{where}: expected a list but got {value!r}")
    for component in components:
        if component not in COMPONENTS:
            raise UserError(f"{where}: {unknown('component', str(component), COMPONENTS)}")
    return tuple(components)


def _dtype(value: Any, where: str) -> str:
    name = str(value).removeprefix("torch.")
    if name not in FLOAT_NAMES:
        raise UserError(f"{where}: {unknown('dtype', name, FLOAT_NAMES)}")
    return name


def _out_dtype(value: Any, where: str) -> str:
    return PARENTS if value == PARENTS else _dtype(value, where)


def _tokenizer_source(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected base, union or a model")
    return value


def _chat_template(value: Any, where: str) -> str:
    is_jinja = isinstance(value, str) and "{" in value and len(value) >= 20
    if not is_jinja and value not in CHAT_TEMPLATES:
        raise UserError(
            f"{where}: expected one of {', '.join(CHAT_TEMPLATES)}, or a Jinja template of 20 "
            f"characters or more, but got {value!r}"
        )
    return str(value)


def _seed(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise UserError(f"{where}: expected a whole number >= 0, but got {value!r}")
    return value


Model = Annotated[str, _model]
LayerRange = Annotated[tuple[int, int], _range]
Dtype = Annotated[str, _dtype]


@dataclass(frozen=True)
class Entry(_Part):
    """A model that takes part, its parameters, and rows of its own for methods that want them."""

    model: Model
    parameters: Parameters = field(default_factory=dict)
    data: Data | None = None

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[_Part], Any]:
        """Read a bare name as an entry without parameters."""
        return super().kind_of({"model": value} if isinstance(value, str) else value, where)


@dataclass(frozen=True, kw_only=True)
class Block(_Part):
    """A method for the tensors of some layers and components; parameters fall back to the recipe's.

    Attributes:
        layers: Half-open range of output layers; ``None`` also takes tensors outside the stack.
        components: Which of architecture.COMPONENTS; ``None`` takes all. ``mlp`` takes experts and
            routers too, which an earlier block may name apart.
        merge_method: The block's method.
        parameters: What holds for every model of the block.
        models: What holds for one model of the block.
    """

    layers: LayerRange | None = None
    components: Annotated[tuple[str, ...], _components] | None = None
    merge_method: str
    parameters: Parameters = field(default_factory=dict)
    models: tuple[Entry, ...] = ()

    def covers(self, layer: int | None, component: str) -> bool:
        """Say whether the tensors at this location belong to the block."""
        if self.layers is not None and (
            layer is None or not self.layers[0] <= layer < self.layers[1]
        ):
            return False
        wider = WIDER.get(component, component)
        return self.components is None or not {component, wider}.isdisjoint(self.components)


@dataclass(frozen=True)
class Source(_Part):
    """One model's layers in a slice, half-open, and its parameters there."""

    model: Model
    layer_range: LayerRange
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Slice(_Part):
    """Output layers that are merged from equally many layers of each source."""

    sources: tuple[Source, ...]
    base_model: Model | None = None
    parameters: Parameters = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of layers, the same for every source."""
        first, end = self.sources[0].layer_range
        return end - first


@dataclass(frozen=True, kw_only=True)
class RecipeData(_Part):
    """The fields of a recipe, which `recipe.Recipe` checks; readable without torch or methods."""

    merges: Mapping[str, RecipeData] = field(default_factory=dict)  # each after those that it needs
    merge_method: str
    base_model: Model | None = None
    models: tuple[Entry, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    calibration: Calibration = AS_USUAL
    dtype: Dtype = "float32"
    out_dtype: Annotated[str, _out_dtype] | None = None
    config: Model | None = None
    tokenizer_source: Annotated[str, _tokenizer_source] | None = None
    tokenizer: Tokenizer | None = None
    chat_template: Annotated[str, _chat_template] | None = None
    seed: Annotated[int, _seed] = 0
    heads: Heads = "merge"
    unmatched: Unmatched = "error"

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[_Part], Any]:
        """Give a block without a method that of the recipe, and refuse models beside slices."""
        document = yaml_file.present(value, where)
        yaml_file.check_keys(document, [field.name for field in fields(cls)], where)
        both = "models" in document and "slices" in document
        if both or not (document.get("models") or document.get("slices")):
            raise UserError(f"{where}: expected either models or slices, and only one of them")
        if isinstance(document.get("blocks"), list) and "merge_method" in document:
            document["blocks"] = [
                {"merge_method": document["merge_method"], **block}
                if isinstance(block, Mapping)
                else block
                for block in document["blocks"]
            ]
        return cls, document

    def to_yaml(self, file: str | Path | None = None) -> str:
        """Return the recipe as YAML, also written to `file` if given."""
        text = yaml_file.write(self.to_dict())
        if file is not None:
            Path(file).write_text(text, encoding="utf-8")
        return text

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form: equal recipes, equal digests, however written or named."""
        named: dict[str, str] = {}
        for name, inner in self.merges.items():
            named[name] = f"merge {_sha256(_without_files(_renamed(inner.to_dict(), named)))}"
        document = {key: value for key, value in self.to_dict().items() if key != "merges"}
        return _sha256(_without_files(_renamed(document, named)))

    def data_of(self, model: str) -> Data | None:
        """Return the rows that a model of this recipe brings, or ``None``."""
        return next((entry.data for entry in self.models if entry.model == model), None)

    @property
    def output_dtype(self) -> str:
        """The dtype that the merged tensors are written in; `PARENTS` until those are known."""
        return self.out_dtype or self.dtype

    @property
    def inputs(self) -> list[str]:
        """Every model and merge it merges, in order of appearance, the base last if not listed."""
        listed = [entry.model for entry in self.models]
        for part in self.slices:
            listed += [source.model for source in part.sources]
            listed += [part.base_model] if part.base_model else []
        return list(dict.fromkeys([*listed, *([self.base_model] if self.base_model else [])]))

    @property
    def model_names(self) -> list[str]:
        """Every model that is read for it: its inputs, merges replaced by the models in them."""
        of_merges = [m for inner in self.merges.values() for m in inner.inputs]
        return [m for m in dict.fromkeys([*self.inputs, *of_merges]) if m not in self.merges]

    @property
    def method_names(self) -> list[str]:
        """Every method that makes its tensors: its own, then those of its blocks."""
        return list(dict.fromkeys([self.merge_method, *(b.merge_method for b in self.blocks)]))

    @property
    def donor(self) -> str:
        """The model or merge whose tokenizer the result takes, and its config without `config`."""
        return self.base_model or self.inputs[0]

    @property
    def config_donor(self) -> str:
        """The model or merge whose config the result takes."""
        return self.config or self.donor

    @property
    def vocabulary(self) -> Tokenizer | None:
        """The rule for the result's vocabulary; ``None``: all parents must have the same tokens."""
        if self.tokenizer_source is not None:
            return Tokenizer(self.tokenizer_source.removeprefix("model:"))
        return self.tokenizer

    def block_of(self, layer: int | None, component: str) -> Block | None:
        """Return the first block that covers a location; ``None`` where the recipe itself does."""
        return next((block for block in self.blocks if block.covers(layer, component)), None)


def _renamed(value: Any, names: Mapping[str, str], key: str = "") -> Any:
    """Return the same document with models renamed."""
    if isinstance(value, dict):
        return {name: _renamed(item, names, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names, key) for item in value]
    is_model = isinstance(value, str) and key in (*MODEL_KEYS, "models")
    return names.get(value, value) if is_model else value


def _without_files(document: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's document in which rows are known by their content alone."""
    if not any("data" in entry for entry in document.get("models", ())):
        return document
    models = [
        {**entry, "data": entry["data"]["sha256"]} if "data" in entry else entry
        for entry in document["models"]
    ]
    return {**document, "models": models}


def _sha256(document: Any) -> str:
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
