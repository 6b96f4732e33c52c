"""Parses numbers within bounds, and names the bounds where it refuses one."""

from __future__ import annotations

import argparse
from typing import Literal


def trial_number(text: str) -> int:
    """Return a trial's number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a trial's number, but got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, but got {text}")
    return value


def count_or_all(text: str) -> int | Literal["all"]:
    """Return a whole number of at least 1, or ``all``."""
    return "all" if text == "all" else count(text)


def port(text: str) -> int:
    """Return a port to listen on."""
    value = count(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of at most 65535, but got {text}")
    return value


def seconds(text: str) -> float:
    """Return a time between two looks at a run, 0.01 to 3600 seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0.01 to 3600 seconds, but got {text}")
    return value


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add --set, which takes the place of a study file's values."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="instead of the study's, such as search.trials=100; may be given more than once",
    )
