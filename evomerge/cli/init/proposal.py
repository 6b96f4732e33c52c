"""Proposes tasks, a space and a number of trials."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.cli.init.machine import Workers
from evomerge.core.errors import UserError
from evomerge.core.timespan import seconds
from evomerge.study.analysis.forecast import DISCORDANT

PRESETS = ("quick", "standard", "thorough")
_TRIALS = {  # by gradients, by scores
    "quick": (20, 60),
    "standard": (60, 240),
    "thorough": (120, 600),
}
_UNTIL = ((1800.0, "quick"), (6 * 3600.0, "standard"))  # the preset of a budget in seconds
_TOKENS, _ITEMS = 200, 48  # of an item, of a generation
_SEARCHED = 0.6  # share of the budget that is not anchors, race and verdict
_MOST_TASKS = 8
_TASK_NAME = re.compile(r"^task:\s*[\"']?([\w.-]+)[\"']?\s*(?:#.*)?$", re.M)
# Words in models' names and cards, and a task of lm-eval that asks for what they promise.
_SKILLS = (
    (r"math|gsm|numina|metamath|wizardmath|abel", "gsm8k"),
    (r"japanese|ja|jp|jpn|swallow|elyza|rinna|shisa", "belebele_jpn_Jpan"),
    (r"chinese|zh|cn|zho", "belebele_zho_Hans"),
    (r"korean|ko|kor", "kobest_hellaswag"),
    (r"german|deutsch|de|deu", "belebele_deu_Latn"),
    (r"french|fr|fra", "belebele_fra_Latn"),
    (r"spanish|es|spa", "belebele_spa_Latn"),
    (r"italian|it|ita", "belebele_ita_Latn"),
    (r"portuguese|pt|por", "belebele_por_Latn"),
    (r"russian|ru|rus", "belebele_rus_Cyrl"),
    (r"med|medical|medicine|bio|clinical|meditron", "medqa_4options"),
    (r"law|legal|saul", "mmlu_professional_law"),
    (r"science|sci", "sciq"),
)
_GENERAL = "arc_challenge"
_CODE = re.compile(r"\b(?:code|coder|coding|python|starcoder)\b")


@dataclass(frozen=True)
class Tasks:
    """Tasks for a study.

    Attributes:
        names: As lm-eval knows them.
        folders: Where files of them are, if they are the user's.
        why: Where they come from, in words.
        hint: What else to think of; else empty.
        others: More tasks in the same folder.
    """

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    why: str
    hint: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """A space and how long to search it.

    Attributes:
        preset: One of `PRESETS`.
        space: A shipped space.
        trials: How many.
        deadline: As given by --for; ``None`` for none.
        why: In words.
    """

    preset: str
    space: str
    trials: int
    deadline: str | None
    why: str


def tasks(given: Iterable[str], folders: Sequence[Path], words: str, near: Iterable[Path]) -> Tasks:
    """Return the tasks that are given; else those of a task folder; else a guess by models' names.

    Args:
        given: Names from --tasks.
        folders: Folders from --include-path.
        words: The names and cards of the models.
        near: Where a folder `tasks` may be.
    """
    names = tuple(given)
    near = list(near)
    if names:
        beside = (place / "tasks" for place in near if not folders)
        holding = [folder for folder in beside if {*names} & {*_tasks_in(folder)}]
        return Tasks(names, tuple(folders) or tuple(holding[:1]), "as given by --tasks")
    for folder in [*folders, *(place / "tasks" for place in near)]:
        inside = _tasks_in(folder)
        if inside:
            shown = tuple(inside[:_MOST_TASKS])
            why = f"the tasks in {folder.name}/" + (
                f", the first {_MOST_TASKS} of {len(inside)}" if len(inside) > _MOST_TASKS else ""
            )
            others = tuple(inside[_MOST_TASKS:])
            return Tasks(shown, tuple(folders) or (folder,), why, others=others)
    parts = set(re.split(r"[^a-z0-9]+", words.lower()))
    guessed = [task for pattern, task in _SKILLS if _mentions(parts, pattern)]
    hint = ""
    if _CODE.search(" ".join(parts)):
        hint = (
            "for code: humaneval and mbpp run what the model writes, and need allow_task_code: true"
        )
    return Tasks(
        (*guessed[: _MOST_TASKS - 1], _GENERAL),
        (),
        "a guess by the models' names; put your own in their place",
        hint,
    )


def budget(
    preset: str | None,
    limit: str | None,
    workers: Workers,
    parameters: int,
    models: int,
    by_gradient: bool,
) -> Budget:
    """Choose a space and a number of trials.

    Args:
        preset: The one that the user names; ``None`` follows from the limit.
        limit: How long a session may take, such as ``4h``; ``None`` for no limit.
        workers: Who works.
        parameters: Of one model; 0 where not known.
        models: How many are merged.
        by_gradient: Whether gradients by the coefficients can be computed here.

    Raises:
        UserError: The limit is no time span.
    """
    available = seconds(limit, "--for")
    if preset is None:
        preset = "standard"
        if available is not None:
            preset = next((name for until, name in _UNTIL if available < until), "thorough")
    trials = _TRIALS[preset][0 if by_gradient else 1]
    passes = 3 if by_gradient else 1
    each = (2 * passes * parameters * _TOKENS * _ITEMS + 20 * parameters * models) / workers.flops
    why = f"{preset}: {trials} trials"
    if available is not None and parameters:
        fit = int(_SEARCHED * available / each) if each else trials
        if fit < trials:
            trials = max(10, fit // 10 * 10)
            why = f"{preset}, cut to {trials} trials, about what fits into {limit}"
    if parameters:
        why += f", some {_words(trials * each)} by a rough guess; `evomerge check` measures"
    space = "task_arithmetic_by_tensor" if by_gradient else "ties_by_depth"
    if preset == "thorough" and not by_gradient:
        space = "mixed_methods"
    return Budget(preset, space, trials, limit, why)


def held_out_items(gain: float, tasks: int) -> int:
    """Return how many held-out items show a gain over one rival in half of all studies.

    By `study.analysis.forecast.gain_shown` for tasks of equal size and weight: with a share p of
    items that only one of two recipes gets right, 1.96 sqrt(p / N) + 1 / N is the gain.

    >>> held_out_items(0.0287, 2)
    1002
    """
    root = (1.96 * math.sqrt(DISCORDANT) + math.sqrt(3.8416 * DISCORDANT + 4 * gain)) / (2 * gain)
    return tasks * math.ceil(root**2 / tasks)


def check_gain(text: str) -> float:
    """Read --gain: a difference of scores between 0.001 and 0.5.

    Raises:
        UserError: It is none.
    """
    try:
        gain = float(text)
    except ValueError:
        gain = 0.0
    if not 0.001 <= gain <= 0.5:
        raise UserError(f"--gain: expected a difference of scores, 0.001 to 0.5, but got {text}")
    return gain


def _tasks_in(folder: Path) -> list[str]:
    """Names of the tasks whose files are in a folder, at any depth."""
    names: dict[str, None] = {}
    if folder.is_dir():
        for root, _, files in sorted(os.walk(folder)):
            for file in sorted(files):
                if file.endswith((".yaml", ".yml")):
                    text = (Path(root) / file).read_text(encoding="utf-8", errors="replace")
                    names |= dict.fromkeys(_TASK_NAME.findall(text))
    return list(names)


def _mentions(parts: set[str], pattern: str) -> bool:
    """Return whether a word is one of these; the long ones may be parts of words."""
    short = set(pattern.split("|"))
    return bool(parts & short) or any(
        len(word) > 4 and word in part for word in short for part in parts
    )


def _words(duration: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if duration >= size:
            return f"{duration / size:.1f} {unit}"
    return f"{duration:.0f} s"
