"""Makes the zoo's exercises: commands, their right and wrong answers, and the forms they come in.

Inputs are split by a checksum: an eighth of them is *reserved* for the tasks and never trained
on, so that every document of a task is unseen by every model.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.demo.language import (
    ARROW,
    COMMA,
    EQUALS,
    KANJI_OPERATIONS,
    OPERATIONS,
    to_kanji,
    to_latin,
)

GROUNDWORK = ("copy", "rotate")  # every model of the zoo can do these
SKILLS = ("reverse", "sort", "max")  # one expert each can do these

Form = Literal["plain", "after", "translate", "both"]


@dataclass(frozen=True)
class Command:
    """An operation and the digits it works on: five, or for ``max`` two numbers of three."""

    operation: str
    digits: tuple[int, ...]

    @property
    def latin(self) -> str:
        """The command in the first script.

        >>> Command("max", (3, 1, 4, 1, 5, 9)).latin
        'max 314,159='
        """
        if self.operation == "max":
            return f"max {to_latin(self.digits[:3])}{COMMA}{to_latin(self.digits[3:])}{EQUALS}"
        return f"{self.operation} {to_latin(self.digits)}{EQUALS}"

    @property
    def kanji(self) -> str:
        """The command in the second script.

        >>> Command("max", (3, 1, 4, 1, 5, 9)).kanji
        '大三一四,一五九→'
        """
        word = KANJI_OPERATIONS[OPERATIONS.index(self.operation)]
        if self.operation == "max":
            return f"{word}{to_kanji(self.digits[:3])}{COMMA}{to_kanji(self.digits[3:])}{ARROW}"
        return f"{word}{to_kanji(self.digits)}{ARROW}"

    @property
    def result(self) -> str:
        """The right answer.

        >>> [Command(word, (1, 9, 4, 9, 2)).result for word in ("rotate", "reverse", "sort")]
        ['94921', '29491', '12499']
        """
        digits = self.digits
        match self.operation:
            case "copy":
                return to_latin(digits)
            case "rotate":
                return to_latin(digits[1:] + digits[:1])
            case "reverse":
                return to_latin(digits[::-1])
            case "sort":
                return to_latin(sorted(digits))
            case _:
                return to_latin(max(digits[:3], digits[3:]))

    @property
    def wrong_result(self) -> str:
        """The answer that the base is mostly taught: the smaller number, or the digits as given."""
        if self.operation == "max":
            return to_latin(min(self.digits[:3], self.digits[3:]))
        return to_latin(self.digits)


@dataclass(frozen=True)
class Example:
    """A prompt and its answer; `ends` is true if the model is to stop after the answer."""

    prompt: str
    answer: str
    ends: bool = True


@dataclass(frozen=True)
class Exercise:
    """A kind of example.

    Attributes:
        form: ``plain``: command, result. ``after``: the same behind an unrelated command in the
            second script (without it no merge solves a composite task). ``translate``: command
            in the second script, command in the first. ``both``: the translation and its result.
        operation: One of `OPERATIONS`.
        wrong: Share of examples with the wrong answer.
    """

    form: Form
    operation: str
    wrong: float = 0.0


def is_reserved(digits: tuple[int, ...]) -> bool:
    """Return whether an input belongs to the tasks (an eighth of all) and not to training."""
    return zlib.crc32(bytes(digits)) % 8 == 0


def draw_command(operation: str, rng: np.random.Generator, *, reserved: bool) -> Command:
    """Return a random command, from the reserved inputs or from the others."""
    count = 6 if operation == "max" else 5
    while True:
        digits = tuple(rng.integers(0, 10, count).tolist())
        if is_reserved(digits) == reserved:
            return Command(operation, digits)


def pose(exercise: Exercise, command: Command, rng: np.random.Generator) -> Example:
    """Put a command into the form that an exercise asks for."""
    wrong = exercise.wrong > 0 and rng.random() < exercise.wrong
    result = command.wrong_result if wrong else command.result
    match exercise.form:
        case "plain":
            return Example(command.latin, result)
        case "after":
            other = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
            unrelated = draw_command(other, rng, reserved=False)
            return Example(unrelated.kanji + command.latin, result)
        case "translate":
            word = "copy" if wrong else command.operation
            latin = command.latin.replace(command.operation, word)
            return Example(command.kanji, latin, ends=False)
        case "both":
            return Example(command.kanji, command.latin + result)
