"""The token ids of a model's tokenizer, read from tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

from evomerge.errors import UserError


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token to id as tokenizer.json holds it; ``None`` without such a file.

    Raises:
        UserError: The file is not what the tokenizers library writes.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, list):  # unigram: a list of [token, score]
            vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
        added = {entry["content"]: entry["id"] for entry in document.get("added_tokens", [])}
        return {str(token): int(number) for token, number in {**vocabulary, **added}.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{file}: expected a tokenizer of the tokenizers library: {error}"
        ) from None
