"""The token ids of a model's tokenizer, read from tokenizer.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.checkpoint.document import read_json
from evomerge.errors import UserError

# Gemma's 262,144 tokens and their merges take 33 MB and 1.4 million parts.
_EXPECTED = "a tokenizer of the tokenizers library"
_MAX_BYTES = 64 * 2**20
_MAX_PARTS = 4_000_000


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token to id as tokenizer.json holds it; ``None`` without such a file.

    Raises:
        UserError: The file is not what the tokenizers library writes.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    document = read_tokenizer(folder)
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, list):  # unigram: a list of [token, score]
        vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
    added = {entry["content"]: entry["id"] for entry in document.get("added_tokens", [])}
    return {str(token): int(number) for token, number in {**vocabulary, **added}.items()}


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """What tokenizer.json holds; its tokens and their ids are of the right kinds.

    Raises:
        UserError: The file is not what the tokenizers library writes.
    """
    file = folder / "tokenizer.json"
    try:
        document: dict[str, Any] = read_json(file, _MAX_BYTES, _MAX_PARTS, _EXPECTED)
        vocabulary = document["model"]["vocab"]
        whole = [entry["id"] for entry in document.get("added_tokens", [])]
        tokens = [entry["content"] for entry in document.get("added_tokens", [])]
        if isinstance(vocabulary, list):
            tokens += [entry[0] for entry in vocabulary]
        else:
            whole += vocabulary.values()
        if not all(type(number) is int for number in whole):
            raise ValueError("an id is no whole number")
        if not all(isinstance(token, str) for token in tokens):
            raise ValueError("a token is no text")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: expected {_EXPECTED}: {error}") from None
    return document
