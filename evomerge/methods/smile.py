"""SMILE (Tang 2024): each linear layer chooses among low-rank changes, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from evomerge.methods.parameters import Doc, PerModelFloat, Range
from evomerge.methods.registry import structure


@structure("smile", reference="Tang 2024, https://arxiv.org/abs/2408.10174", brings_code=True)
@dataclass(frozen=True)
class Smile:
    """Keep the base, and let each token choose among the models' low-rank changes, by their inputs.

    y = W_0 x + b_0 + sum_{i in top} p_i (U_i S_i V_i^T x + s_i (b_i - b_0))
    p = softmax over i of |first `gate_rank` entries of V_i^T x|, the `top` largest renormalised

    U_i S_i V_i^T are the `rank` largest parts of s_i (W_i - W_0), for each linear layer within the
    stack; needs neither data nor training. With one model, full rank and `rest: average` it is that
    model. No architecture of transformers has such layers: the result brings one Python file of
    ours, and is loaded with trust_remote_code. All changes are computed and those not chosen
    weighed by 0. The paper leaves norms and embeddings at the base's; `scale` is not the paper's,
    whose gates may have more parts than `rank`.
    """

    scale: Annotated[
        PerModelFloat,
        Range(0.0, 1.5),
        Doc("Multiplies a model's change; any finite number; 0 leaves the base."),
    ] = 1.0
    rank: Annotated[
        int,
        Range(4, 64, valid_low=1),
        Doc("Parts of each change that are kept; at most a matrix's smaller side."),
    ] = 16
    gate_rank: Annotated[
        int, Range(1, 16, valid_low=1), Doc("How many of them decide; at most `rank`.")
    ] = 8
    top: Annotated[int, Range(1, 4, valid_low=1), Doc("How many changes a token takes.")] = 1
    rest: Annotated[
        Literal["base", "average"],
        Doc("Norms, embeddings and head: the base's, or the mean of the models'."),
    ] = "average"
