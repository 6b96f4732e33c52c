"""Squashes the likelihood of the right answer into [0, 1]: a fitness without steps.

Where recipes are close to each other, a metric of 0s and 1s needs many items to distinguish them;
how nearly an answer would have been given needs fewer, and needs no decoding. The squash must be
steep: a likelihood such as exp(mean log-probability) grows whenever a recipe scales the logits up,
and so ranks recipes by their scale rather than by their skill. Measured on random merges of the
demo zoo, the rank correlation of a score on 6, 24 and 48 items per task with exact match on other
items (60 merges that vary by layer; 40 with one coefficient per expert, far apart; 40 close by):

    exact match itself            .64 .83 .90    .75 .90 .94    .61 .80 .89
    exp(mean log-probability)     .59 .65 .65    .44 .45 .45    .24 .24 .23
    `smooth_answers`              .69 .87 .92    .78 .89 .93    .71 .85 .91

A merge that differs from these in kind may still be misjudged: the search watches the rank
correlation of the smooth score with the metric, and the winner is chosen by the metric.
"""

from __future__ import annotations

import numpy as np

from evomerge.evaluate.likelihood.likelihood import Likelihoods

# How steep: in standard deviations of the logits for tokens, in nats of an answer for choices.
TOKEN_TEMPERATURE = 0.03
CHOICE_TEMPERATURE = 0.25
# What the worst token decides; the rest is for answers so long that one token always fails.
WORST_TOKEN = 0.9


def smooth_answers(likelihoods: Likelihoods) -> np.ndarray:
    """Return how nearly greedy decoding gives each answer, (pairs,).

    With m_t the margin of the answer's token t (in standard deviations of the logits there), its
    ending included, and s_t = sigmoid(m_t / 0.03):

        0.9 min_t s_t + 0.1 mean_t s_t

    min_t s_t is above 1/2 exactly where greedy decoding gives the whole answer, and ends it.
    """
    tokens = _sigmoid(likelihoods.table[1] / TOKEN_TEMPERATURE)
    lengths = likelihoods.stops - likelihoods.starts
    worst = likelihoods.reduced(np.minimum, tokens)
    mean = likelihoods.reduced(np.add, tokens) / lengths
    return WORST_TOKEN * worst + (1.0 - WORST_TOKEN) * mean  # type: ignore[no-any-return]


def smooth_choices(scores: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return sigmoid(margin / 0.25) of each item's right choice over its best wrong one.

    Args:
        scores: Log-likelihood of each choice in nats of a whole answer (`ChoiceTable.scores`),
            (items, choices).
        right: Which choices are right; more than one may be.
        wrong: Which are not; an item without any is always right.

    The scores, (items,), are above 1/2 exactly where the metric calls the item right.
    """
    best = np.where(right, scores, -np.inf).max(axis=1)
    rival = np.where(wrong, scores, -np.inf).max(axis=1)
    return _sigmoid((best - rival) / CHOICE_TEMPERATURE)


def smooth_metric(value: float, higher_is_better: bool) -> float:
    """Return the metric, for a task without a gold text; 1 / (1 + value) where lower is better."""
    return value if higher_is_better else 1.0 / (1.0 + max(value, 0.0))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))  # type: ignore[no-any-return]
