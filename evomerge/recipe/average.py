"""Averages over the checkpoints of one training run, and of several, as linear recipes.

Each function takes checkpoints from first to last. Methods that feed an average back into training
are left out: their result is no merge of saved checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe

Checkpoints = Sequence[str | Path]


def uniform(
    checkpoints: Checkpoints, *, start: int = 0, stride: int = 1, out_dtype: str | None = None
) -> Recipe:
    """Return the mean of the checkpoints from `start` on, every `stride`-th of them.

    All of them: Polyak 1992, https://doi.org/10.1137/0330046; from 75 % of the run on, one a cycle:
    SWA, Izmailov 2018, https://arxiv.org/abs/1803.05407; from a start on: the moving averages of
    Arpit 2022, https://arxiv.org/abs/2110.10832. Of fine-tunes of one model it is a uniform soup:
    Wortsman 2022, https://arxiv.org/abs/2203.05482.

    Raises:
        UserError: Nothing is left to average.
    """
    if start < 0 or stride < 1 or start >= len(checkpoints):
        raise UserError(
            f"uniform: `0 <= start < {len(checkpoints)}` (checkpoints) and `stride >= 1` must "
            f"hold, but got (start={start}, stride={stride})"
        )
    return _mean(checkpoints[start::stride], out_dtype)


def last(
    checkpoints: Checkpoints, *, k: int, stride: int = 1, out_dtype: str | None = None
) -> Recipe:
    """Return the mean of the last `k` checkpoints, `stride` apart (LAWA).

    Kaddour 2022, https://arxiv.org/abs/2209.14981; widely spaced: Sanyal 2023,
    https://arxiv.org/abs/2306.03241. A k of 1 is the last checkpoint.

    Raises:
        UserError: There are fewer.
    """
    if k < 1 or stride < 1 or (k - 1) * stride >= len(checkpoints):
        raise UserError(
            f"last: expected k checkpoints {stride} apart among {len(checkpoints)}, but got k={k}"
        )
    chosen = list(checkpoints)[::-1][::stride][:k]
    return _mean(chosen[::-1], out_dtype)


def ema(checkpoints: Checkpoints, *, decay: float, out_dtype: str | None = None) -> Recipe:
    """Return the exponential moving average: m_0 = c_0, m_t = decay * m_(t-1) + (1 - decay) * c_t.

    Its weights are decay^T for the first checkpoint, (1 - decay) * decay^(T-t) for the others;
    their sum is 1. Tarvainen 2017, https://arxiv.org/abs/1703.01780.

    Raises:
        UserError: decay is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"ema: `0 <= decay < 1` must hold, but got (decay={decay})")
    final = len(checkpoints) - 1
    weights = [
        decay**final if t == 0 else (1 - decay) * decay ** (final - t) for t in range(final + 1)
    ]
    return _linear(checkpoints, weights, normalize=False, out_dtype=out_dtype)


def cumulative(checkpoints: Checkpoints, *, out_dtype: str | None = None) -> Recipe:
    """Average cumulatively: m_1 = c_1, m_t = ((t - 1) m_(t-1) + c_t) / t, which is the mean.

    DLCPA: Sun 2023, https://arxiv.org/abs/2310.18639.
    """
    return _mean(checkpoints, out_dtype)


def swad(
    checkpoints: Checkpoints,
    *,
    losses: Sequence[float],
    converged: int = 3,
    overfit: int = 6,
    tolerance: float = 1.3,
    out_dtype: str | None = None,
) -> Recipe:
    """Return the mean of the checkpoints in the valley of a validation curve (`swad_window`).

    Cha 2021, https://arxiv.org/abs/2102.08604.

    Args:
        checkpoints: From first to last.
        losses: The validation loss of each.
        converged: N_s of the paper.
        overfit: N_e of the paper.
        tolerance: r of the paper.
        out_dtype: Of the result.

    Raises:
        UserError: There is not one finite loss for each checkpoint.
    """
    if len(losses) != len(checkpoints) or not all(map(math.isfinite, losses)):
        raise UserError(
            f"swad: expected {len(checkpoints)} finite losses (one per checkpoint), but got "
            f"{list(losses)}"
        )
    first, end = swad_window(losses, converged, overfit, tolerance)
    return _mean(checkpoints[first:end], out_dtype)


def swad_window(
    losses: Sequence[float], converged: int = 3, overfit: int = 6, tolerance: float = 1.3
) -> tuple[int, int]:
    """Find the valley of a validation curve, as indices [first, end) (Cha 2021, algorithm 1).

    It begins at the first loss that is the least of `converged` in a row from it on, and ends
    before the first `overfit` in a row that are all above `tolerance` times the mean of those. A
    curve that never gets there has only its last checkpoint.

    >>> swad_window([5, 3, 2, 2.1, 2.2, 2.1, 4, 4, 4, 4, 4, 4])
    (2, 6)
    """
    if converged < 1 or overfit < 1 or tolerance < 1:
        raise UserError(
            "swad: `converged >= 1`, `overfit >= 1` and `tolerance >= 1` must hold, but got "
            f"({converged}, {overfit}, {tolerance})"
        )
    count = len(losses)
    spans = range(count - converged + 1)
    first = next((t for t in spans if losses[t] == min(losses[t : t + converged])), None)
    if first is None:
        return count - 1, count
    threshold = tolerance * sum(losses[first : first + converged]) / converged
    for end in range(first + 1, count - overfit + 1):
        if min(losses[end : end + overfit]) > threshold:
            return first, end
    return first, count


def soup_of_averages(
    runs: Sequence[Checkpoints], average: Callable[[Checkpoints], Recipe] = uniform
) -> Recipe:
    """Return the mean of each run's average: a recipe of recipes.

    Args:
        runs: The checkpoints of each run.
        average: What is made of one run.

    Raises:
        UserError: There are fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError(f"expected two or more runs, but got {len(runs)}")
    inner = [average(run) for run in runs]
    names = [f"run-{number}" for number in range(1, len(runs) + 1)]
    return Recipe.from_dict(
        {
            "merges": {name: _inside(one) for name, one in zip(names, inner, strict=True)},
            "merge_method": "linear",
            "models": [{"model": name, "parameters": {"weight": 1.0}} for name in names],
            **({"out_dtype": inner[0].out_dtype} if inner[0].out_dtype else {}),
        }
    )


def checkpoints_of(folder: str | Path) -> list[str]:
    """List a run's checkpoints in training order: ``checkpoint-500`` before ``checkpoint-1000``.

    Raises:
        UserError: The folder holds no folder whose name ends in a number.
    """
    numbered = []
    for path in Path(folder).glob("*"):
        digits = path.name[len(path.name.rstrip("0123456789")) :]
        if digits and (path / "config.json").is_file():
            numbered.append((int(digits), str(path)))
    if not numbered:
        raise UserError(f"{folder}: expected folders of checkpoints, such as checkpoint-500")
    return [path for _, path in sorted(numbered)]


def _inside(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe whose result is only merged on: it is not rounded in between."""
    return {key: value for key, value in recipe.to_dict().items() if key != "out_dtype"}


def _mean(checkpoints: Checkpoints, out_dtype: str | None) -> Recipe:
    return _linear(checkpoints, [1.0] * len(checkpoints), normalize=True, out_dtype=out_dtype)


def _linear(
    checkpoints: Checkpoints, weights: Sequence[float], *, normalize: bool, out_dtype: str | None
) -> Recipe:
    document: Mapping[str, Any] = {
        "merge_method": "linear",
        "models": [
            {"model": str(checkpoint), "parameters": {"weight": weight}}
            for checkpoint, weight in zip(checkpoints, weights, strict=True)
        ],
        "parameters": {"normalize": normalize},
        **({"out_dtype": out_dtype} if out_dtype else {}),
    }
    return Recipe.from_dict(document, "trajectory")
