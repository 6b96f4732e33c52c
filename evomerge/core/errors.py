"""Defines the exception for mistakes that the user can fix, and the wording of unknown names."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix.

    Its message is one line: what was expected, what came instead, where, and the remedy. The
    command line prints it on stderr without a traceback and exits with code 2; a notebook shows
    the line alone.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in the place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class StudyEnded(UserError):
    """A search was asked for a trial after its last one."""


class ResumableError(UserError):
    """A run was interrupted from outside; the command line prints the command that resumes it."""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Say that `word` is no known `kind`, nearest known names first.

    >>> unknown("method", "tise", ["linear", "ties"])
    "unknown method 'tise': did you mean 'ties'? known: linear, ties"
    """
    import difflib  # it takes long, and where models are checked nobody needs it

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.55)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {kind} '{word}': {hint}known: {', '.join(names)}"
