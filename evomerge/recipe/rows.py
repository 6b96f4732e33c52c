"""Names the rows of data that belong to a model, by their content, and says how they are read.

A recipe's digest holds the content's SHA-256 and no path, so that equal rows are equal wherever
they lie.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from evomerge.core import yaml_file
from evomerge.core.errors import UserError

Labels = Literal["given", "sampled"]


def _sha256(value: Any, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise UserError(f"{where}: expected a SHA-256 of 64 digits, but got {value!r}")
    return value


@dataclass(frozen=True)
class Data:
    """A file of rows.

    Attributes:
        file: Its path: JSON lines, ``{"text": …}`` or ``{"prompt": …, "answer": …}``.
        sha256: Of its content.
    """

    file: str
    sha256: Annotated[str, _sha256]

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[Data], Any]:
        """Read a path alone as that file with the content that it has now.

        Raises:
            UserError: There is no such file.
        """
        if isinstance(value, str):
            value = {"file": value}
        document = yaml_file.present(value, where)
        if isinstance(document.get("file"), str) and "sha256" not in document:
            document["sha256"] = content_digest(Path(document["file"]), where)
        return cls, document

    def to_dict(self) -> dict[str, str]:
        """Return it as a recipe holds it."""
        return {"file": self.file, "sha256": self.sha256}


def content_digest(file: Path, where: str) -> str:
    """Return the SHA-256 of a file of rows.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{where}: expected a file of rows (JSON lines), but {file} cannot be read: "
            f"{error.strerror}"
        ) from None


def relocated(value: Any, folder: Path) -> Any:
    """Return a model's ``data`` with a path that is relative to `folder` made absolute."""
    if isinstance(value, str):
        return str((folder / value).resolve()) if value else value
    if isinstance(value, Mapping) and isinstance(value.get("file"), str):
        return {**value, "file": str((folder / value["file"]).resolve())}
    return value


def _whole(low: int) -> Any:
    def read(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value < 2**31:
            raise UserError(f"{where}: expected a whole number of at least {low}, got {value!r}")
        return value

    return read


@dataclass(frozen=True)
class Calibration:
    """How models' rows are read.

    Attributes:
        rows: At most so many of each file, drawn by `seed`; fewer if it has fewer.
        tokens: Longer rows are cut to so many tokens: texts at their end, answers keep theirs.
        labels: Whose likelihood is differentiated: the rows' own answers (``given``), or tokens
            that the model draws in their places (``sampled``, the Fisher itself).
        seed: Of both draws.
        steps: How many Adam takes to learn a mask, along 32 rows each.
    """

    rows: Annotated[int, _whole(1)] = 256
    tokens: Annotated[int, _whole(2)] = 512
    labels: Labels = "given"
    seed: Annotated[int, _whole(0)] = 0
    steps: Annotated[int, _whole(1)] = 100

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[Calibration], Any]:
        """Leave out nulls."""
        return cls, yaml_file.present(value, where)

    def to_dict(self) -> dict[str, Any]:
        """Return it without defaults."""
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


AS_USUAL = Calibration()
