"""Describes the tokens of a result and where their embedding rows come from (`tokenizer`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from evomerge.core import yaml_file
from evomerge.core.errors import UserError, unknown


@dataclass(frozen=True)
class TokenRow:
    """The source of one token's embedding row.

    Attributes:
        model: Whose row; ``None`` for a row of zeros.
        token: Which of that model's tokens; ``None`` for the token itself.
        token_id: Or which of its rows.
        force: If true, models that have the token take this row too.
    """

    model: str | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as mergekit writes it."""
        source: Any = self.model
        if self.model is None:
            source = {"kind": "zero"}
        elif self.token is not None or self.token_id is not None:
            source = {"kind": "model_token", "model": self.model}
            key = "token" if self.token is not None else "token_id"
            source[key] = getattr(self, key)
        return {"source": source, **({"force": True} if self.force else {})}


@dataclass(frozen=True)
class Tokenizer:
    """The result's vocabulary.

    Attributes:
        source: ``base``, ``union`` (the base's tokens, then those of the others that it lacks), or
            the model whose tokens the result has.
        tokens: Tokens whose rows do not follow the rule, and tokens that are added.
        pad_to_multiple_of: The number of rows is rounded up to a multiple of it.
    """

    source: Annotated[str, _source] = "union"
    tokens: Annotated[Mapping[str, TokenRow], _rows] = field(default_factory=dict)
    pad_to_multiple_of: Annotated[int | None, _multiple] = None

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[Tokenizer], Any]:
        """Leave out nulls, which mergekit reads as absent."""
        return cls, yaml_file.present(value, where)

    def to_dict(self) -> dict[str, Any]:
        """Return it as mergekit writes it."""
        document: dict[str, Any] = {"source": self.source}
        if self.tokens:
            document["tokens"] = {token: row.to_dict() for token, row in self.tokens.items()}
        if self.pad_to_multiple_of is not None:
            document["pad_to_multiple_of"] = self.pad_to_multiple_of
        return document


def check(tokenizer: Tokenizer, models: Sequence[str], where: str) -> None:
    """Refuse models that the recipe does not read.

    Raises:
        UserError: Names the key.
    """
    check_source(tokenizer.source, models, f"{where}.source")
    for token, row in tokenizer.tokens.items():
        if row.model is not None and row.model not in models:
            raise UserError(f"{where}.tokens[{token!r}]: {unknown('model', row.model, models)}")


def check_source(word: str, models: Sequence[str], where: str) -> None:
    """Refuse what is neither ``base`` nor ``union`` nor one of the models.

    Raises:
        UserError: Names the key.
    """
    if word not in ("base", "union", *models):
        key = where.rpartition(".")[2].rpartition(" ")[2]
        raise UserError(f"{where}: {unknown(key, word, ['base', 'union', *models])}")


def _source(value: Any, where: str) -> str:
    """Read a source of tokens, which older mergekit files call ``model:...``."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected base, union or a model")
    return value.removeprefix("model:")


def _multiple(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= 2**20:
        raise UserError(f"{where}: expected a whole number >= 1, but got {value!r}")
    return value


def _rows(value: Any, where: str) -> dict[str, TokenRow]:
    rows = yaml_file.mapping(value, where)
    return {token: _row(row, f"{where}[{token!r}]") for token, row in rows.items()}


def _row(value: Any, where: str) -> TokenRow:
    fields = yaml_file.mapping(value, where)
    yaml_file.check_keys(fields, ("source", "force"), where)
    force, source = fields.get("force", False), fields.get("source")
    if type(force) is not bool:
        raise UserError(f"{where}.force: expected true or false, but got {force!r}")
    if isinstance(source, str):
        return TokenRow(source, force=force)
    if source is None:
        raise UserError(
            f"{where}: expected a source: a model, {{kind: zero}} or {{kind: model_token, ...}}"
        )
    source = yaml_file.mapping(source, f"{where}.source")
    kind = source.get("kind")
    if kind not in ("zero", "model_token"):
        named = unknown("kind", str(kind), ("zero", "model_token"))
        raise UserError(f"{where}.source: {named}")
    if kind == "zero":
        yaml_file.check_keys(source, ("kind",), f"{where}.source")
        return TokenRow(force=force)
    yaml_file.check_keys(source, ("kind", "model", "token", "token_id"), f"{where}.source")
    token, number = source.get("token"), source.get("token_id")
    if (token is None) == (number is None):
        raise UserError(f"{where}.source: expected either token or token_id")
    if token is not None and not isinstance(token, str):
        raise UserError(f"{where}.source.token: expected text, but got {token!r}")
    if number is not None and (type(number) is not int or number < 0):
        raise UserError(
            f"{where}.source.token_id: expected a whole number >= 0, but got {number!r}"
        )
    if not isinstance(source.get("model"), str):
        raise UserError(f"{where}.source: expected a model")
    return TokenRow(source["model"], token, number, force)
