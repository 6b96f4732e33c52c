"""Says which models are nearest to rows of a new domain, one look at each, and averages these.

By the models' own likelihood of the rows (Li 2022, Branch-Train-Merge,
https://arxiv.org/abs/2208.03306), by texts alike to those that each model was trained on
(Chronopoulou 2023, AdapterSoup, https://arxiv.org/abs/2302.07027), or by the elements of the base
that both kinds of text pull at (Wu 2023, pi-Tuning, https://arxiv.org/abs/2304.14381).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evomerge.calibration.live import live_parent
from evomerge.calibration.rows import Row, batches, read_rows
from evomerge.calibration.statistics import Statistics
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_tokenizer
from evomerge.merge.parents.parents import Parents
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data

ALPHA = 0.3  # of the moving average of posteriors, as in Branch-Train-Merge


def by_likelihood(
    models: Sequence[str], data: Data, calibration: Calibration, parents: Parents
) -> list[float]:
    """Return each model's weight: the posterior that the rows are of its domain; they sum to 1."""
    table = np.empty((0, 0))
    for column, model in enumerate(models):
        live, rows = _read(model, data, calibration, parents)
        if not column:
            table = np.empty((len(rows), len(models)))  # nats of a whole row
        table[:, column] = likelihoods(live, rows)
    return posterior(table)


def likelihoods(model: Any, rows: Sequence[Row]) -> list[float]:
    """Return the log-likelihood of each row's tokens from `Row.first` on, in nats.

    Raises:
        UserError: One is not finite.
    """
    by_number: dict[int, float] = {}
    with torch.no_grad():
        for batch in batches(rows):
            tokens = torch.tensor([row.tokens for row in batch], device=model.device)
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
            taken = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
            for row, values in zip(batch, taken.double(), strict=True):
                by_number[row.number] = float(values[row.first - 1 :].sum())
    for number, value in by_number.items():
        if not math.isfinite(value):
            raise UserError(f"row {number}: the model's likelihood of it is {value}: leave it out")
    return [by_number[row.number] for row in rows]


def posterior(table: np.ndarray, prior: Sequence[float] | None = None) -> list[float]:
    """Return the moving average of the rows' posteriors over models; it sums to 1.

    p_j(s)  proportional to  exp(table_sj) w_j,    w <- (1 - .3) w + .3 p(s),  row after row

    Args:
        table: Log-likelihood of each row by each model, (rows, models).
        prior: w before the first row; the same for all by default.

    >>> equal = np.log([[0.2, 0.2], [0.1, 0.1]])  # says nothing
    >>> [round(weight, 9) for weight in posterior(equal, [0.25, 0.75])]
    [0.25, 0.75]
    """
    count = table.shape[1]
    weights = np.full(count, 1 / count) if prior is None else np.asarray(prior, dtype=float)
    for row in table:
        joint = np.exp(row - row.max()) * weights
        weights = (1 - ALPHA) * weights + ALPHA * joint / joint.sum()
    return [float(weight) for weight in weights]


def by_text(
    base: str,
    trained_on: Sequence[Data],
    data: Data,
    calibration: Calibration,
    parents: Parents,
) -> list[float]:
    """Return how alike the rows are to those of each model, in [-1, 1].

    The cosine of the base's last hidden states, averaged over the tokens of all rows.
    """
    live = None
    means = []
    for one in (data, *trained_on):
        if live is None:
            live, rows = _read(base, one, calibration, parents)
        else:
            rows = _rows(base, one, calibration, parents, live)
        means.append(_mean_state(live, rows))
    target, *others = means
    return [_cosine(target, other) for other in others]


def by_fisher(
    base: str,
    trained_on: Sequence[Data],
    data: Data,
    calibration: Calibration,
    parents: Parents,
) -> list[float]:
    """Return how alike the squared gradients are that two kinds of rows have, in [0, 1].

    The cosine of the base's Fisher diagonals on the rows and on those of each model.
    """
    statistics = Statistics(parents)
    target, *others = (
        statistics.stored(base, "fisher", one, calibration) for one in (data, *trained_on)
    )
    names = [name for name in parents.opened[base].tensors if name in target]

    def product(a: Any, b: Any) -> float:
        return sum(float((a.tensor(n).double() * b.tensor(n).double()).sum()) for n in names)

    target_square = product(target, target)
    return [
        product(target, other) / math.sqrt(max(target_square * product(other, other), 1e-300))
        for other in others
    ]


def average(models: Sequence[str], weights: Sequence[float], out_dtype: str) -> Recipe:
    """Return the weighted mean of models; those of a weight below a millionth are left out."""
    shares = [round(weight / sum(weights), 6) for weight in weights]
    entries = [
        {"model": model, "parameters": {"weight": share}}
        for model, share in zip(models, shares, strict=True)
        if share
    ]
    document = {"merge_method": "linear", "models": entries, "dtype": "float32"}
    return Recipe.from_dict({**document, "out_dtype": out_dtype})


def _read(
    model: str, data: Data, calibration: Calibration, parents: Parents
) -> tuple[Any, tuple[Row, ...]]:
    live = live_parent(model, parents)
    return live, _rows(model, data, calibration, parents, live)


def _rows(
    model: str, data: Data, calibration: Calibration, parents: Parents, live: Any
) -> tuple[Row, ...]:
    tokenizer = load_tokenizer(parents.opened[model].folder)
    if tokenizer is None:
        raise UserError(f"{model}: expected tokenizer files, to read the rows; there are none")
    config = live.config.get_text_config(decoder=True)
    longest = int(getattr(config, "max_position_embeddings", 0) or calibration.tokens + 1)
    return read_rows(data, calibration, tokenizer, longest).rows


def _mean_state(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return the mean of the last hidden states over all tokens of all rows, float64."""
    width = model.config.get_text_config(decoder=True).hidden_size
    total, count = torch.zeros(width, dtype=torch.float64, device=model.device), 0
    with torch.no_grad():
        for batch in batches(rows):
            tokens = torch.tensor([row.tokens for row in batch], device=model.device)
            output = model(input_ids=tokens, use_cache=False, output_hidden_states=True)
            states = output.hidden_states[-1].double().flatten(0, 1)  # (tokens, width)
            total += states.sum(0)
            count += len(states)
    return total / count


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
