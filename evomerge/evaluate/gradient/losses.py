"""Losses of one item whose gradient is wanted, in PyTorch, from what the model says of its answers.

Each is 0 at best. The names are those of a study file's ``search.options.loss``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.evaluate.scoring.choice_table import ChoiceTable
from evomerge.evaluate.scoring.smooth import CHOICE_TEMPERATURE, TOKEN_TEMPERATURE, WORST_TOKEN

# The smooth score is so steep that most items are right or wrong beyond doubt, and have no slope
# left; ten times as flat, all have one.
MARGIN_TEMPERATURE = 10 * TOKEN_TEMPERATURE
DPO_BETA = 0.1  # Rafailov 2023, §6


@dataclass(frozen=True)
class Answers:
    """Holds what the model says of one item's pairs.

    Attributes:
        log_probabilities: Of each pair's tokens, its ending included.
        margins: Of the same tokens, see `Likelihood`.
        n_tokens: Length of each pair's continuation, without the ending.
        entropies: Of the distribution at the same tokens, in nats; only for the loss that is made
            of them.
        right: The pairs that make each right answer: one, but for a text in several windows.
        choices: The row of a `ChoiceTable`, if the item is multiple choice; its pairs count from
            this item's first.
        reference: For an item of preferences, by how many nats the base model has the chosen
            answer likelier than the rejected one; ``None`` for every other item.
    """

    log_probabilities: Sequence[Tensor]
    margins: Sequence[Tensor]
    entropies: Sequence[Tensor]
    n_tokens: Sequence[int]
    right: Sequence[Sequence[int]]
    choices: ChoiceTable | None = None
    reference: float | None = None


def answers_loss(answers: Answers) -> Tensor:
    """Return the cross entropy of the right answer: the likeliest, if there are several.

    A written answer: - mean_t log p_t over its tokens and its end, in nats a token. A choice:
    - log softmax of the choices' log-likelihoods, normalised as the task's metric does.
    """
    if answers.choices is not None:
        scores = _choice_scores(answers)
        right = torch.tensor(answers.choices.right[0])
        return scores.logsumexp(0) - scores[right].logsumexp(0)
    losses = [-_joined(answers.log_probabilities, pairs).mean() for pairs in answers.right]
    return torch.stack(losses).min()


def margin_loss(answers: Answers) -> Tensor:
    """Return one minus the smooth score (`scoring.smooth`), ten times as flat for texts."""
    if answers.choices is not None:
        scores = _choice_scores(answers)
        right, wrong = (
            torch.tensor(of[0]) for of in (answers.choices.right, answers.choices.wrong)
        )
        if not bool(wrong.any()):
            return scores.sum() * 0.0
        margin = scores[right].max() - scores[wrong].max()
        return torch.sigmoid(-margin / CHOICE_TEMPERATURE)
    losses = []
    for pairs in answers.right:
        wrong = torch.sigmoid(-_joined(answers.margins, pairs) / MARGIN_TEMPERATURE)
        losses.append(WORST_TOKEN * wrong.max() + (1 - WORST_TOKEN) * wrong.mean())
    return torch.stack(losses).min()


def entropy_loss(answers: Answers) -> Tensor:
    """Return the entropy of what the model says by itself; no right answer is looked at.

    A written answer: the mean over its tokens; a choice: that of softmax of the choices'
    log-likelihoods. Yang 2024, https://arxiv.org/abs/2310.02575 (AdaMerging), whose models
    classify, as a choice does.
    """
    if answers.choices is not None:
        logs = _choice_scores(answers).log_softmax(0)
        return -(logs.exp() * logs).sum()
    return torch.cat(list(answers.entropies)).mean()


def dpo_loss(answers: Answers) -> Tensor:
    """Return the loss of direct preference optimisation; of other items, `answers_loss`.

    - log σ(β [(log π(chosen) - log π(rejected)) - (log π_base(chosen) - log π_base(rejected))])

    with β = .1 and each log-likelihood that of a whole answer. Rafailov 2023,
    https://arxiv.org/abs/2305.18290; for merges: Yi 2024, https://arxiv.org/abs/2405.09055 (SOMF).
    """
    if answers.reference is None:
        return answers_loss(answers)
    assert answers.choices is not None
    totals = _totals(answers)
    chosen, rejected = (totals[number] for number in answers.choices.pairs[0, :2])
    return -torch.nn.functional.logsigmoid(DPO_BETA * (chosen - rejected - answers.reference))


def _totals(answers: Answers) -> list[Tensor]:
    """Return the log-likelihood of each pair's continuation, without its ending."""
    pairs = zip(answers.log_probabilities, answers.n_tokens, strict=True)
    return [log[:count].sum() for log, count in pairs]


def _joined(values: Sequence[Tensor], pairs: Sequence[int]) -> Tensor:
    return torch.cat([values[number] for number in pairs])


def _choice_scores(answers: Answers) -> Tensor:
    """Return `ChoiceTable.scores` of one item, with its gradient, padding left out."""
    table = answers.choices
    assert table is not None
    there = np.flatnonzero((table.right | table.wrong)[0])
    totals = _totals(answers)
    scores = torch.stack([totals[number] for number in table.pairs[0, there]])
    if table.alone is not None:
        scores = scores - torch.stack([totals[number] for number in table.alone[0, there]])
    lengths = torch.tensor(table.lengths[0, there], dtype=scores.dtype, device=scores.device)
    return scores / lengths * lengths.mean()


FUNCTIONS: Mapping[str, Callable[[Answers], Tensor]] = {
    "answers": answers_loss,
    "margin": margin_loss,
    "entropy": entropy_loss,
    "dpo": dpo_loss,
}
