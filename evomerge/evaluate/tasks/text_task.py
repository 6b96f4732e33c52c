"""Makes a task of a text file: its bits per byte, in chunks, each chunk a document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

CHUNK_BYTES = 1000  # a few hundred tokens: enough to read on, and a short text still has many


def read_chunks(file: Path, chunk_bytes: int) -> list[str]:
    """Cut a UTF-8 text at line ends, every byte in one chunk.

    A chunk holds as many whole lines as fit in `chunk_bytes`; a longer line is cut between
    characters, and blank lines stay with the text before them.

    Raises:
        UserError: The file cannot be read, is no UTF-8, or holds nothing but blanks.
    """
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected UTF-8 text, but byte {error.start} is not") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read the text: {error.strerror}") from None
    chunks: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        for piece in _pieces(line, chunk_bytes):
            length = len(piece.encode())
            if chunks and (size + length <= chunk_bytes or not piece.strip()):
                chunks[-1] += piece
                size += length
            else:
                chunks.append(piece)
                size = length
    if not text.strip():
        raise UserError(f"{file}: expected a text, but it is empty")
    return chunks


def text_task(name: str, chunks: list[str]) -> dict[str, Any]:
    """Write lm-eval's configuration of a task that asks for the likelihood of each chunk.

    Its documents, ``{"text": chunk}``, are given to lm-eval by the caller.
    """
    rolling = ("bits_per_byte", "byte_perplexity", "word_perplexity")
    return {
        "task": name,
        "output_type": "loglikelihood_rolling",
        "num_fewshot": 0,  # a study's examples are for its other tasks
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": metric} for metric in rolling],
        "metadata": {"chunks": len(chunks)},
    }


def _pieces(line: str, max_bytes: int) -> list[str]:
    """Cut a line into pieces of at most `max_bytes` bytes, no character broken."""
    pieces = [""]
    size = 0
    if len(line.encode()) <= max_bytes:
        return [line]
    for character in line:
        width = len(character.encode())
        if size + width > max_bytes and pieces[-1]:
            pieces.append("")
            size = 0
        pieces[-1] += character
        size += width
    return pieces
