"""A recipe's `tokenizer`: which tokens the result has, and where their embedding rows come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        """As mergekit writes it."""
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

    source: str = "union"
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As mergekit writes it."""
        document: dict[str, Any] = {"source": self.source}
        if self.tokens:
            document["tokens"] = {token: row.to_dict() for token, row in self.tokens.items()}
        if self.pad_to_multiple_of is not None:
            document["pad_to_multiple_of"] = self.pad_to_multiple_of
        return document


def read(document: Any, models: Sequence[str], where: str) -> Tokenizer:
    """Read a recipe's ``tokenizer``.

    Args:
        document: The mapping.
        models: The models that the recipe reads; no other may be named.
        where: What messages call it.

    Raises:
        UserError: A key is unknown or a value wrong; names it.
    """
    fields = {k: v for k, v in yaml_file.mapping(document, where).items() if v is not None}
    yaml_file.check_keys(fields, ("source", "tokens", "pad_to_multiple_of"), where)
    multiple = fields.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or not 1 <= multiple <= 2**20):
        raise UserError(
            f"{where}.pad_to_multiple_of: expected a whole number >= 1, but got {multiple!r}"
        )
    tokens = yaml_file.mapping(fields.get("tokens", {}), f"{where}.tokens")
    return Tokenizer(
        source_name(fields.get("source", "union"), models, f"{where}.source"),
        {t: _row(row, models, f"{where}.tokens[{t!r}]") for t, row in tokens.items()},
        multiple,
    )


def source_name(value: Any, models: Sequence[str], where: str) -> str:
    """``base``, ``union``, or one of the models (which older mergekit files call ``model:...``).

    Raises:
        UserError: It is none of them.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: expected base, union or a model")
    word = value.removeprefix("model:")
    if word not in ("base", "union", *models):
        kind = "tokenizer_source" if where.endswith("tokenizer_source") else "source"
        raise UserError(f"{where}: {unknown(kind, word, ['base', 'union', *models])}")
    return word


def _row(value: Any, models: Sequence[str], where: str) -> TokenRow:
    fields = yaml_file.mapping(value, where)
    yaml_file.check_keys(fields, ("source", "force"), where)
    force, source = fields.get("force", False), fields.get("source")
    if type(force) is not bool:
        raise UserError(f"{where}.force: expected true or false, but got {force!r}")
    if isinstance(source, str):
        return TokenRow(_model(source, models, f"{where}.source"), force=force)
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
    model = _model(source.get("model"), models, f"{where}.source.model")
    return TokenRow(model, token, number, force)


def _model(name: Any, models: Sequence[str], where: str) -> str:
    if name not in models:
        raise UserError(f"{where}: {unknown('model', str(name), models)}")
    return str(name)
