"""Routed low-rank changes behind learned gates: Twin-Merging, WEMoE and MoLE.

Gates are trained on the models' own rows of data, with Adam and everything else frozen, and stay as
statistics of the models (`calibration.gates`): they are made at `scale` 1, which acts on the
changes behind them, so that a search over it trains nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from evomerge.methods.parameters import Doc, PerModelFloat, Range
from evomerge.methods.registry import structure

_Scale = Annotated[
    PerModelFloat,
    Range(0.0, 1.5),
    Doc("Multiplies a model's change; any finite number; 0 takes it out."),
]
_Rank = Annotated[
    int,
    Range(4, 64, valid_low=1),
    Doc("Parts of each change that are kept; a matrix's smaller side, which is the most, is all."),
]
_Rest = Annotated[
    Literal["base", "average"],
    Doc("Norms, embeddings and head: the base's, or the mean of the models'."),
]
_Train = Annotated[
    bool, Doc("Whether gates are trained on the models' rows; without, they are constant.")
]
_Loss = Annotated[
    Literal["answers", "entropy"],
    Doc("What training lowers: the rows' cross entropy, or the entropy of what is predicted."),
]
_Steps = Annotated[int, Range(50, 1000, valid_low=1), Doc("Steps of Adam.")]
_Rate = Annotated[float, Range(0.001, 0.1, valid_low=0.0), Doc("Adam's learning rate.")]


@structure(
    "twin_merging",
    reference="Lu 2024, https://arxiv.org/abs/2406.15479",
    takes=frozenset({"gates"}),
    data_if=("train", True),
    brings_code=True,
)
@dataclass(frozen=True)
class TwinMerging:
    """Add to a shared merge what each model has beyond it, by what a router says of the prompt.

    W(x) = W_0 + sum_i p_i(x) s_i [W_i - W_0] at `rank`,    p = softmax(R m(x) + c)

    `base_model` is the shared merge W_0, m(x) the mean of its last hidden states over the tokens so
    far: everything is read twice, first by W_0 alone. R and c learn to tell whose rows these are.
    Every linear layer within the stack has changes, biases' whole. With p on one model at full rank
    they are that model's.

    The paper's router is an MLP with batch norm and dropout, on the mean of a whole input; it
    splits norms and embeddings too.
    """

    scale: _Scale = 1.0
    rank: _Rank = 16
    rest: _Rest = "base"
    train: _Train = True
    steps: _Steps = 300
    rate: _Rate = 0.03


@structure(
    "wemoe",
    reference="Tang 2024, https://arxiv.org/abs/2402.00433",
    takes=frozenset({"gates"}),
    data_if=("train", True),
    brings_code=True,
)
@dataclass(frozen=True)
class WeightEnsembling:
    """Merge statically but for the MLPs, whose changes a gate in each layer weighs.

    MLP:  W(x) = W_0 + sum_i g_i(x) s_i [W_i - W_0] at `rank`,  g = mean over tokens of r(h)
    rest: W_0 + `lambda` sum_i (W_i - W_0)

    h is what comes into the MLP, r one linear layer, or two with a ReLU between them (`hidden`);
    the mean is over the tokens so far. Gates start constant at `lambda`: then, at full rank, all is
    task arithmetic. The paper's deltas are whole, its mean is over the input, and its loss the
    entropy, which did far worse here on language models.
    """

    scale: _Scale = 1.0
    lambda_: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("Weight of each model outside the MLPs, and what gates begin with; any number."),
    ] = 0.3
    rank: _Rank = 16
    hidden: Annotated[
        int, Range(0, 64, valid_low=0), Doc("Width between a gate's two layers; 0: it has one.")
    ] = 16
    train: _Train = True
    loss: _Loss = "answers"
    steps: _Steps = 200
    rate: _Rate = 0.01


@structure(
    "mole",
    reference="Wu 2024, https://arxiv.org/abs/2404.13628",
    takes=frozenset({"gates"}),
    data_if=("train", True),
    brings_code=True,
)
@dataclass(frozen=True)
class MixtureOfAdapters:
    """Mix adapters, or low-rank changes, by a gate in each layer that looks at what all would add.

    y = W_0 x + sum_i p_i(x) s_i E_i x,    p = softmax(G z),    z = E_1 x, ..., E_N x normalised

    E_i is the change of an adapter on the base, or the `rank` largest parts of a model's; z has
    their outputs in coordinates of their own. Each linear layer has a gate, and each token its own
    p. Gates start at zero: the mean of the adapters. The paper has a gate for each block or layer,
    flattens all tokens into one z, and adds a loss that balances experts.
    """

    scale: _Scale = 1.0
    rank: _Rank = 16
    rest: _Rest = "base"
    train: _Train = True
    loss: _Loss = "answers"
    steps: _Steps = 200
    rate: _Rate = 0.01
