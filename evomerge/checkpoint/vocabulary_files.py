"""Reads the tokens of a model that has no tokenizer.json: their ids, off the older kinds of files.

GPT-2's vocab.json, BERT's vocab.txt, sentencepiece's tokenizer.model, Mistral's tekken.json and
tiktoken's ranks; and the tokens that were added to them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import check_size, read_json
from evomerge.checkpoint.vocabulary import MAX_BYTES, read_tokenizer
from evomerge.core.errors import UserError

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token to id, whichever files a tokenizer consists of; ``None`` without any.

    Raises:
        UserError: A file is not what its name says.
    """
    tokenizer = read_tokenizer(folder)
    if tokenizer is not None:
        return tokenizer.vocabulary
    vocabulary = _base(folder)
    return None if vocabulary is None else {**vocabulary, **_added(folder)}


def _base(folder: Path) -> dict[str, int] | None:
    if (folder / "vocab.json").is_file():
        return _checked(read_json(folder / "vocab.json"), folder / "vocab.json")
    if (folder / "vocab.txt").is_file():
        lines = _bytes(folder / "vocab.txt").decode("utf-8", "replace").split("\n")
        return {line.rstrip("\r"): i for i, line in enumerate(lines) if line}
    if (folder / "tekken.json").is_file():
        return _tekken(folder / "tekken.json")
    for name in _SENTENCEPIECE:
        if (folder / name).is_file():
            return {piece: i for i, piece in enumerate(_pieces(folder / name))}
    ranks = sorted(folder.glob("*.tiktoken"))
    return _ranks(ranks[0]) if ranks else None


def _added(folder: Path) -> dict[str, int]:
    """Tokens that were added, in a file of their own or among the tokenizer's settings."""
    added: dict[str, int] = {}
    settings = folder / "tokenizer_config.json"
    document = read_json(settings) if settings.is_file() else {}
    decoder = document.get("added_tokens_decoder") if isinstance(document, dict) else None
    if isinstance(decoder, dict):
        for number, entry in decoder.items():
            if number.isdecimal() and isinstance(entry, dict) and "content" in entry:
                added[str(entry["content"])] = int(number)
    if (folder / "added_tokens.json").is_file():
        file = folder / "added_tokens.json"
        added |= _checked(read_json(file), file)
    return added


def _checked(document: Any, file: Path) -> dict[str, int]:
    if not isinstance(document, dict) or not all(type(n) is int for n in document.values()):
        raise UserError(f"{file}: expected tokens with whole numbers")
    return document


def _bytes(file: Path) -> bytes:
    check_size(file, MAX_BYTES)
    return file.read_bytes()


def _tekken(file: Path) -> dict[str, int]:
    """Special tokens come first, then the ranks, as mistral-common counts them."""
    document = read_json(file, MAX_BYTES)
    try:
        special = int(document["config"]["default_num_special_tokens"])
        size = int(document["config"]["default_vocab_size"])
        tokens = {str(t["token_str"]): int(t["rank"]) for t in document.get("special_tokens") or ()}
        ranked = document["vocab"][: size - special]
        return {**{str(t["token_bytes"]): int(t["rank"]) + special for t in ranked}, **tokens}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: expected Mistral's tekken tokenizer: {error}") from None


def _ranks(file: Path) -> dict[str, int]:
    tokens = {}
    for line in _bytes(file).splitlines():
        token, _, rank = line.partition(b" ")
        try:
            tokens[base64.b64decode(token, validate=True).decode("latin-1")] = int(rank)
        except ValueError:
            raise UserError(f"{file}: expected lines of a token in base64 and its rank") from None
    return tokens


def _pieces(file: Path) -> Iterator[str]:
    """The pieces of sentencepiece's ModelProto, in the order of their ids.

    A message of protocol buffers: field 1, repeated, is a piece, whose field 1 is its text.
    """
    for field, value in _fields(_bytes(file), file):
        if field == 1 and isinstance(value, bytes):
            text = next((v for f, v in _fields(value, file) if f == 1), b"")
            yield bytes(text).decode("utf-8", "replace") if isinstance(text, bytes) else ""


def _fields(data: bytes, file: Path) -> Iterator[tuple[int, bytes | int]]:
    """Fields of a message with their values; of wire types 0, 1, 2 and 5."""
    position = 0

    def varint() -> int:
        nonlocal position
        result = shift = 0
        while True:
            byte = data[position]
            position += 1
            result |= (byte & 127) << shift
            if byte < 128 or shift > 63:
                return result
            shift += 7

    try:
        while position < len(data):
            key = varint()
            field, kind = key >> 3, key & 7
            if kind == 0:
                yield field, varint()
                continue
            length = {1: 8, 5: 4}.get(kind)
            length = varint() if kind == 2 else length
            if length is None or position + length > len(data):
                raise IndexError
            yield field, data[position : position + length]
            position += length
    except IndexError:
        raise UserError(f"{file}: expected a sentencepiece model, but it is damaged") from None
