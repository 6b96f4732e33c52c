"""A wider model that computes what the narrow one does: HyperCloning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from evomerge.methods.parameters import Doc, Range
from evomerge.methods.registry import structure


@structure(
    "widen",
    reference="Samragh 2024, https://arxiv.org/abs/2409.12903",
    takes_base=False,
    max_models=1,
)
@dataclass(frozen=True)
class Widening:
    """Make a model `factor` times as wide, whose logits are those of the model.

    W' = tile(W, k, k) / k for linear layers, tile(w, k) for norms, biases and embeddings

    The hidden state is the model's k times over: k times the heads, of the same width, and k times
    the units of the MLP; the head reads the mean of the copies. Embeddings are untied. With `noise`
    the copies differ, for training afterwards: each row of blocks gets noise that adds up to zero
    over what it reads, so that the logits stay. An architecture whose logits would change is
    refused: a model of two layers with random weights is widened and compared first.
    """

    factor: Annotated[
        int, Range(1, 2, valid_low=1, valid_high=16), Doc("How many times as wide.")
    ] = 2
    noise: Annotated[
        float,
        Range(0.0, 0.5, valid_low=0.0, valid_high=10.0),
        Doc("Deviation of the noise between copies, relative to the weights'."),
    ] = 0.0
