"""A mixture of experts: each layer's MLPs of several fine-tunes side by side, and a router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from evomerge.methods.parameters import Doc, Fraction, PerModelFloat, Range
from evomerge.methods.registry import structure

Layout = Literal["auto", "mixtral", "qwen2_moe", "qwen3_moe"]


@structure(
    "moe",
    reference="Komatsuzaki 2022, https://arxiv.org/abs/2212.05055",
    takes=frozenset({"inputs"}),
    data_if=("router", "hidden"),
)
@dataclass(frozen=True)
class MixtureOfExperts:
    """Make a mixture of experts: MLPs of the models, everything else of the base.

    y = sum_{e in top} p_e(x) MLP_e(x),    p = softmax of x . r_e over the `top` largest

    Expert e is model e mod N; of fewer experts than models a layer has those of largest `priority`
    there, so that layers may differ in whose experts they have. `base_model` (any merge, too) gives
    attention, norms and embeddings, and is what `scale` starts from. Equal experts are the dense
    model, and with `top` of all experts the result is their convex mix, weighted anew for each
    token. Router rows are the unit mean of the unit inputs of the MLP over the model's own rows
    (`data`), or random for training afterwards, as in sparse upcycling: one model, several experts.
    transformers loads the result as Mixtral, Qwen2-MoE or Qwen3-MoE. mergekit-moe takes a layer's
    input instead, before its norm, at the last position.
    """

    scale: Annotated[
        PerModelFloat,
        Range(0.0, 1.5),
        Doc(
            "How much of a model's change its expert takes: 0 is the base's MLP, 1 the model's, "
            "both to the bit."
        ),
    ] = 1.0
    experts: Annotated[
        int,
        Range(0, 8, valid_low=0, valid_high=1024),
        Doc("How many a layer has; 0: one for each model; fewer than models: by `priority`."),
    ] = 0
    priority: Annotated[
        PerModelFloat,
        Range(0.0, 1.0),
        Doc(
            "Which models are a layer's experts, if there are fewer of them: those of the largest "
            "number, the first of equal ones."
        ),
    ] = 0.0
    top: Annotated[
        int,
        Range(1, 4, valid_low=1),
        Doc("How many experts a token takes, those of largest router output."),
    ] = 2
    router: Annotated[
        Literal["hidden", "random"],
        Doc("Rows by the models' own data, or drawn by the recipe's seed (deviation .02)."),
    ] = "hidden"
    sharpness: Annotated[
        float,
        Range(0.5, 8.0, valid_low=0.0),
        Doc("Multiplies the router's rows; 0 weighs all experts alike."),
    ] = 4.0
    shared: Annotated[
        Fraction,
        Doc("Share of the base's MLP, as an expert that every token takes; Qwen2-MoE's layout."),
    ] = 0.0
    every: Annotated[
        int,
        Range(1, 2, valid_low=1),
        Doc("Every how many layers one has experts; more than 1 in Qwen's layouts only."),
    ] = 1
    layout: Annotated[
        Layout,
        Doc(
            "The architecture; auto: Qwen's own for Qwen, Qwen2-MoE with `shared` or `every`, "
            "else Mixtral."
        ),
    ] = "auto"
