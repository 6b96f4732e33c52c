"""Squashes what a model says of the right answer into [0, 1]: a fitness without stairs.

Where every recipe is close to every other, a metric of 0s and 1s needs many items to tell them
apart; how nearly an answer would have been given needs fewer. The squash must be steep: a
likelihood such as exp(mean log-probability) grows whenever a recipe scales the logits up, and so
ranks recipes by their scale rather than by their skill. Measured on 60 random merges of the demo
zoo: the rank correlation with exact match on other items, from 6, 24 and 96 items per task, is
.63, .83 and .94 for exact match itself, .59, .65 and .67 for exp(mean log-probability), and
.76, .90 and .95 for what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evomerge.evaluate.likelihood import Likelihood
from evomerge.evaluate.target import Choices

# How steep: in standard deviations of the logits for tokens, in nats of an answer for choices.
TOKEN_TEMPERATURE = 0.04
CHOICE_TEMPERATURE = 0.25


def smooth_answer(golds: Sequence[Likelihood]) -> float:
    """How nearly greedy decoding gives a right answer; the best of several.

    With m_t the margin of the answer's token t (in standard deviations of the logits there), its
    ending included, and s_t = sigmoid(m_t / 0.04):

        1/2 min_t s_t + 1/2 (prod_t s_t)^(1/T)

    The first half tells whether the whole answer comes out: min_t s_t > 1/2 exactly if it does.
    The second tells how far a wrong answer is from right, over all of its tokens.
    """
    return max(_answer(gold) for gold in golds)


def smooth_choice(likelihoods: Sequence[Likelihood], choices: Choices) -> float:
    """sigmoid(margin / 0.25) of the right choice over the best wrong one.

    A choice's log-likelihood is divided by its length as the metric divides it, and the margin
    multiplied by the mean length, so that it is in nats of a whole answer. Above 1/2 exactly where
    the metric calls the item right.
    """
    totals = np.array([likelihood.total for likelihood in likelihoods])
    count = len(choices.lengths)
    if choices.unconditional:
        totals = totals[:count] - totals[count:]
    lengths = np.array(choices.lengths)
    scores = totals / lengths * lengths.mean()
    right = np.zeros(count, dtype=bool)
    right[list(choices.golds)] = True
    if right.all():
        return 1.0
    margin = float(scores[right].max() - scores[~right].max())
    return math.exp(float(_log_sigmoid(margin / CHOICE_TEMPERATURE)))


def smooth_metric(value: float, higher_is_better: bool) -> float:
    """The metric itself, for a task without a gold text; 1 / (1 + value) where lower is better."""
    return value if higher_is_better else 1.0 / (1.0 + max(value, 0.0))


def _answer(gold: Likelihood) -> float:
    logs = _log_sigmoid(gold.margins / TOKEN_TEMPERATURE)
    return 0.5 * math.exp(float(logs.min())) + 0.5 * math.exp(float(logs.mean()))


def _log_sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(-np.logaddexp(0.0, -np.asarray(x)))
