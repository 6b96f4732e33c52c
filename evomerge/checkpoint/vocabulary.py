"""Reads a model's tokenizer.json: its token ids, and the tokens added to it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from evomerge.checkpoint.files.document import check_file
from evomerge.checkpoint.sandbox.windowed_json import LongJson
from evomerge.core.errors import UserError

# Gemma's 262,144 tokens and their merges take 33 MB and 1.4 million parts; XLM-V, which has most,
# has 901,629 tokens.
MAX_BYTES = 64 * 2**20
_MAX_PARTS = 4_000_000
_MAX_TOKENS = 2**20
_BESIDE = 100  # bytes that a token takes in a dictionary, with its id, in addition to its text
_BATCH = 10_000


class TokenizerFile(NamedTuple):
    """A tokenizer as far as tokenizer.json shows it.

    Attributes:
        vocabulary: Token to id, added tokens too.
        added: Its ``added_tokens``, as they stand there.
        span: Which bytes of the file hold those; the empty span where they would go if it has none.
    """

    vocabulary: dict[str, int]
    added: list[dict[str, Any]]
    span: tuple[int, int]


class TokenSum(NamedTuple):
    """A digest by which vocabularies are compared.

    Attributes:
        digest: SHA-256 over every token and its id, in the order of the ids.
        size: How many tokens there are.
        megabytes: Approximate memory that they take.
    """

    digest: str
    size: int
    megabytes: float


def read_tokenizer(folder: Path) -> TokenizerFile | None:
    """Read tokenizer.json; ``None`` without such a file.

    The merges of its tokens are read and forgotten, so that it takes a tenth of what it would.

    Raises:
        UserError: The file is not what the tokenizers library writes.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    size = check_file(file)
    if size > MAX_BYTES:
        raise UserError(f"{file}: expected at most {MAX_BYTES:,} bytes but it has {size:,}")
    try:
        with file.open("rb") as stream:
            return read_stream(stream)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{file}: expected a tokenizer of the tokenizers library: {error}"
        ) from None


def sum_of(vocabulary: dict[str, int]) -> TokenSum:
    """Return the sum of a vocabulary. Equal ones may differ in it where two tokens share an id."""
    digest, tokens = hashlib.sha256(), sorted(vocabulary, key=vocabulary.__getitem__)
    for start in range(0, len(tokens), _BATCH):
        batch = tokens[start : start + _BATCH]
        ids = [vocabulary[token] for token in batch]
        digest.update(
            f"{ids} {[*map(len, batch)]} {''.join(batch)}".encode("utf-8", "surrogatepass")
        )
    byte_count = sum(map(sys.getsizeof, tokens)) + _BESIDE * len(tokens)
    return TokenSum(digest.hexdigest(), len(tokens), byte_count / 2**20)


def write_added(folder: Path, out: Path, added: Sequence[Mapping[str, Any]]) -> None:
    """Write a folder's tokenizer.json into another, with other added tokens and nothing else new.

    Raises:
        UserError: It is not what the tokenizers library writes.
    """
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None, f"{folder} has a tokenizer.json"
    text = json.dumps(added, ensure_ascii=False).encode()
    with (folder / "tokenizer.json").open("rb") as old, (out / "tokenizer.json").open("wb") as new:
        begin, end = tokenizer.span
        if begin == end:  # no array, not even an empty one
            text = b'"added_tokens": ' + text + b", "
        new.write(old.read(begin) + text)
        old.seek(end)
        shutil.copyfileobj(old, new)


def read_stream(stream: BinaryIO) -> TokenizerFile:
    """Read a tokenizer.json from a stream.

    Raises:
        ValueError: It is no JSON, or not of the tokenizers library (also KeyError and others).
    """
    document = LongJson(stream, _MAX_PARTS)
    vocabulary: dict[str, int] | None = None
    added: list[dict[str, Any]] = []
    document.peek()
    span = document.position + 1, document.position + 1
    for key in document.fields():
        if key == "model":
            vocabulary = _model(document)
        elif key == "added_tokens":
            document.peek()
            begin = document.position
            added = [entry for batch in document.items() for entry in batch]
            span = begin, document.position
        else:
            document.value()
    if document.peek():
        raise ValueError("expected the end of the file, but more follows")
    if vocabulary is None:
        raise ValueError("it has no model.vocab")
    added_ids = {entry["content"]: entry["id"] for entry in added}
    _check(added_ids)
    vocabulary.update(added_ids)
    return TokenizerFile(vocabulary, added, span)


def _model(document: LongJson) -> dict[str, int] | None:
    vocabulary = None
    for key in document.fields():
        if key == "vocab":
            vocabulary = _vocabulary(document)
        elif document.peek() == "[":
            for _ in document.items():  # merges
                pass
        else:
            document.value()
    return vocabulary


def _vocabulary(document: LongJson) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    count = 0
    if document.peek() == "[":  # unigram: [token, score], and an id is an index into the list
        for batch in document.items():
            vocabulary.update({entry[0]: count + i for i, entry in enumerate(batch)})
            count = _counted(count + len(batch))
    else:
        for entries in document.entries():
            vocabulary.update(entries)
            count = _counted(count + len(entries))
        if len(vocabulary) < count:
            raise ValueError("a token appears twice")
    _check(vocabulary)
    return vocabulary


def _counted(count: int) -> int:
    if count > _MAX_TOKENS:
        raise ValueError(f"it has more than {_MAX_TOKENS:,} tokens")
    return count


def _check(tokens: dict[Any, Any]) -> None:
    if not all(type(number) is int for number in tokens.values()):
        raise ValueError("an id is no whole number")
    if not all(isinstance(token, str) for token in tokens):
        raise ValueError("a token is no text")
