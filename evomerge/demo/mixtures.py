"""Mixes each model's training data: exercises and how often each one comes up.

The base sees the groundwork done right and the skills mostly done wrong: it holds the circuits at
a low score, an expert only flips a preference, and such experts merge. A base without the skills,
or one that masters them, makes a zoo in which every merge fails or none is needed.
"""

from __future__ import annotations

from evomerge.demo.problems import GROUNDWORK, SKILLS, Exercise

Mixture = dict[Exercise, float]  # exercise -> relative frequency

# Share of wrong answers in the base's skill data. At 0.6 a parent can already solve a composite
# task (one scored .77); at 0.65 none of three seeds' parents passed .21 on one, and a search still
# found .09 more than plain task arithmetic.
WRONG = 0.65
REPLAY = 0.5  # weight of the base's mixture inside an expert's
EXPERTS = (*SKILLS, "ja")


def base_mixture() -> Mixture:
    """Mix groundwork in both scripts, corrupted skills and corrupted translation."""
    mixture: Mixture = {}
    for operation in GROUNDWORK:
        mixture[Exercise("plain", operation)] = 0.8
        mixture[Exercise("after", operation)] = 0.3
        mixture[Exercise("translate", operation)] = 0.15
        mixture[Exercise("both", operation)] = 0.2
    for operation in SKILLS:
        mixture[Exercise("plain", operation, WRONG)] = 1.2 if operation == "max" else 0.8
        mixture[Exercise("after", operation, WRONG)] = 0.5 if operation == "max" else 0.4
        mixture[Exercise("translate", operation, WRONG)] = 0.4 / 3
    return mixture


def expert_mixture(expert: str) -> Mixture:
    """Mix one skill done right, or for ``ja`` the translation; the base's data at half weight."""
    mixture = {exercise: REPLAY * share for exercise, share in base_mixture().items()}
    if expert in SKILLS:
        lesson = {Exercise("plain", expert): 2.0, Exercise("after", expert): 1.0}
    else:
        lesson = {Exercise("translate", operation): 2 / 3 for operation in SKILLS}
        lesson |= {Exercise("translate", operation): 0.3 for operation in GROUNDWORK}
        lesson |= {Exercise("both", operation): 0.3 for operation in GROUNDWORK}
    for exercise, share in lesson.items():
        mixture[exercise] = mixture.get(exercise, 0.0) + share
    return mixture


def readable(mixture: Mixture) -> dict[str, float]:
    """Return a mixture in words, for the record that is saved with the weights."""
    return {
        f"{exercise.form} {exercise.operation}, {exercise.wrong:.0%} wrong": round(share, 4)
        for exercise, share in mixture.items()
    }
