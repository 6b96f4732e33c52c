"""Reads rows of data: a draw of them, in tokens, cut to what the model and the recipe allow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.recipe.rows import Calibration, Data

_KEYS = ({"text"}, {"prompt", "answer"})
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """One row in tokens.

    Attributes:
        number: Its line in the file, from 1.
        tokens: Two or more.
        first: Index of the first token whose likelihood counts; 1 or more.
    """

    number: int
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Rows:
    """Rows ready to run, and how many of them were cut."""

    rows: tuple[Row, ...]
    cut: int

    @property
    def tokens(self) -> int:
        """Count the tokens that the model reads."""
        return sum(len(row.tokens) - 1 for row in self.rows)


def read_rows(data: Data, calibration: Calibration, tokenizer: Any, longest: int) -> Rows:
    """Read a draw of a file's rows.

    Args:
        data: The file, whose content must be what the recipe says.
        calibration: How many rows, and of how many tokens.
        tokenizer: The model's own; its special tokens at the start are kept, one at the end is not.
        longest: Tokens that the model has positions for.

    Raises:
        UserError: The file is not there, is another one, or has a line that is no row.
    """
    lines = list(_lines(data))
    chosen = sorted(lines, key=lambda line: _place(calibration.seed, line[0]))[: calibration.rows]
    limit = min(calibration.tokens, longest)
    rows, cut = [], 0
    for number, line in sorted(chosen):
        row = _encoded(number, _parsed(line, number, data), tokenizer, data)
        shorter = _cut(row, limit)
        cut += shorter is not row
        rows.append(shorter)
    return Rows(tuple(rows), cut)


def count_rows(data: Data, calibration: Calibration) -> int:
    """Count the rows that `read_rows` draws.

    Raises:
        UserError: The file is not there, or is another one.
    """
    return min(sum(1 for _ in _lines(data)), calibration.rows)


def _lines(data: Data) -> Iterator[tuple[int, str]]:
    file = Path(data.file)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file}: expected rows of at most 1 GiB in all; draw fewer of them")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot read the rows: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != data.sha256:
        raise UserError(
            f"{file}: its rows are not those of the recipe, whose SHA-256 begins with "
            f"{data.sha256[:12]}: bring that file back, or remove sha256 from the recipe"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected UTF-8, but got {error.reason}") from None
    empty = True
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            empty = False
            yield number, line
    if empty:
        raise UserError(f"{file}: expected one row (JSON) in each line, but it has none")


def _parsed(line: str, number: int, data: Data) -> dict[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    is_row = isinstance(row, dict) and set(row) in _KEYS
    if not is_row or not all(isinstance(value, str) for value in row.values()):
        raise UserError(
            f'{data.file}: line {number}: expected {{"text": …}} or {{"prompt": …, "answer": …}}, '
            f"but got {line[:80]!r}"
        )
    parsed: dict[str, str] = row
    return parsed


def _encoded(number: int, row: dict[str, str], tokenizer: Any, data: Data) -> Row:
    if "text" in row:
        tokens, first = _tokens(row["text"], tokenizer), 1
    else:
        tokens = _tokens(row["prompt"] + row["answer"], tokenizer)
        first = max(1, len(_tokens(row["prompt"], tokenizer)))
    if len(tokens) <= first:
        raise UserError(
            f"{data.file}: line {number}: expected a token to predict after another one, but the "
            f"row has {len(tokens)} tokens, of which {first} are given"
        )
    return Row(number, tuple(tokens), first)


def _tokens(text: str, tokenizer: Any) -> list[int]:
    """Return a text's tokens, without an end that the tokenizer puts behind every text."""
    tokens = list(tokenizer(text)["input_ids"])
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    extra = len(tokens) - len(plain)
    if extra > 0 and tokens[: len(plain)] == plain:
        return plain
    if extra > 1 and tokens[1 : 1 + len(plain)] == plain:
        return tokens[: 1 + len(plain)]
    return tokens


def _cut(row: Row, limit: int) -> Row:
    """Cut a text at its end, and a prompt at its beginning, so that the answer stays."""
    over = len(row.tokens) - limit
    if over <= 0:
        return row
    if row.first == 1:
        return Row(row.number, row.tokens[:limit], 1)
    start = min(over, row.first - 1)
    tokens = row.tokens[start : start + limit]
    return Row(row.number, tokens, row.first - start)


def _place(seed: int, number: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=16).digest()


def batches(rows: Sequence[Row], tokens: int = 8192) -> Iterator[list[Row]]:
    """Yield rows of one length together, so that nothing is padded, the longest first."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda one: (-len(one.tokens), one.number)):
        full = len(row.tokens) * (len(batch) + 1) > tokens
        if batch and (full or len(row.tokens) != len(batch[0].tokens)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
