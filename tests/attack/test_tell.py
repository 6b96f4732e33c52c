"""Whatever is given to tell(), the run folder can be read, and goes on."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evomerge as em
from evomerge.core.errors import UserError
from evomerge.study.journal.journal import Journal, iterate
from evomerge.study.study import Study

NUMBERS: dict[str, tuple[Any, bool]] = {  # what is told as trial 3's number; whether it is one
    "int": (3, True),
    "numpy int64": (np.int64(3), True),
    "numpy uint8": (np.uint8(3), True),
    "float": (3.0, False),
    "numpy float": (np.float64(3), False),
    "bool": (True, False),
    "numpy bool": (np.True_, False),
    "text": ("3", False),
    "None": (None, False),
    "tensor": (torch.tensor(3), False),
    "negative": (-1, False),
    "huge": (2**70, False),
    "list": ([3], False),
}
SCORES: dict[str, tuple[Any, bool]] = {
    "int": (1, True),
    "numpy float32": (np.float32(0.5), True),
    "numpy int": (np.int64(1), True),
    "fraction": (Fraction(1, 3), True),
    "mapping of numpy": ({"task": np.float64(0.5)}, True),
    "large": (1e59, True),
    "True": (True, False),
    "numpy bool": (np.True_, False),
    "NaN": (float("nan"), False),
    "infinity": (float("inf"), False),
    "the largest float": (1e308, False),
    "the least float": (-1e308, False),
    "integer beyond floats": (10**400, False),
    "decimal": (Decimal("0.5"), False),
    "text": ("0.5", False),
    "complex": (1j, False),
    "array": (np.array([0.5, 0.5]), False),
    "another task": ({"tusk": 0.5}, False),
    "None in a mapping": ({"task": None}, False),
    "a list": ([0.5], False),
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    space = em.SearchSpace.from_yaml("task_arithmetic_by_depth").bind("base", ["one", "two"])
    return em.create_study(space, em.LMEval(["task"]), tmp_path / "run", trials=100)


def is_told(study: Study, number: Any, scores: Any) -> bool:
    """Ask for five trials and tell one; the run must be readable, and go on, in any case."""
    trials = [study.ask() for _ in range(5)]
    try:
        study.tell(number, scores)
    except UserError:
        accepted = False
    else:
        accepted = True
    study.tell(trials[4], 0.25)
    study.close()
    states = [trial.state for trial in em.load_study(study.directory).trials]
    assert states[4] == "scored"
    assert states.count("scored") == 1 + accepted
    with em.load_study(study.directory) as again:
        assert again.ask().number in range(4)
    return accepted


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_that_is_no_trials_is_refused_before_it_is_written(
    study: Study, kind: str
) -> None:
    number, expected = NUMBERS[kind]
    assert is_told(study, number, 0.5) == expected


@pytest.mark.parametrize("kind", SCORES)
def test_a_score_that_is_no_number_is_refused_before_it_is_written(study: Study, kind: str) -> None:
    scores, expected = SCORES[kind]
    assert is_told(study, 3, scores) == expected


def test_scores_as_large_as_they_may_be_end_a_generation(study: Study) -> None:
    for _ in range(40):
        trial = study.ask()
        study.tell(trial, 1e60 if trial.number % 2 else -1e60)
    study.close()
    trials = em.load_study(study.directory).trials
    assert sum(trial.fitness is not None for trial in trials) > 10


@pytest.mark.parametrize("scores", [{"task": True}, {"tusk": 0.5}, {}])
def test_the_journal_takes_no_event_that_nobody_could_read(study: Study, scores: Any) -> None:
    study.ask()
    study.close()
    file = study.directory / "journal.log"
    before = len(list(iterate(file)))
    with Journal.open(file, create=False) as journal:
        with pytest.raises(ValueError, match="an event that could not be read back: scored"):
            journal.append({"event": "scored", "trial": 0, "scores": scores})
        journal.append({"event": "scored", "trial": 0, "scores": {"task": 0.5}})
    assert len(list(iterate(file))) == before + 2  # it was opened, and one was appended
