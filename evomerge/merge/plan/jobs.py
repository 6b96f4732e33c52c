"""Says what is computed for each tensor of a merge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from evomerge.checkpoint.architecture import locate
from evomerge.checkpoint.loaded.config import share_of_experts
from evomerge.checkpoint.loaded.tying import heads_to_fill
from evomerge.recipe.recipe import Recipe


class Ref(NamedTuple):  # hashed a dozen times a job, which a dataclass does in Python
    """A tensor of a parent: the model as the recipe names it, and the tensor's name there."""

    model: str
    name: str


class TensorJob(NamedTuple):
    """The inputs and the method of one output tensor.

    Attributes:
        name: Of the output tensor.
        shape: Of it and of every input.
        base: The base model's tensor, if the method takes one.
        models: The merged models' tensors, in the recipe's order.
        method: The merge method's name.
        parameters: Resolved values; lists with one value per model where the method wants them.
    """

    name: str
    shape: tuple[int, ...]
    base: Ref | None
    models: tuple[Ref, ...]
    method: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class MergePlan:
    """A recipe matched with its parents, ready to build.

    Attributes:
        recipe: The recipe.
        jobs: One per output tensor, in the donor's order.
        config: The config.json of the result.
    """

    recipe: Recipe
    jobs: tuple[TensorJob, ...]
    config: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Number of parameters of the result, a tied one counted once."""
        return sum(math.prod(job.shape) for job in self.jobs)

    @property
    def parameters_per_token(self) -> int:
        """Number of them that a token takes: of experts, or of routed changes, those chosen."""
        routed = sum(math.prod(job.shape) for job in self.jobs if _is_chosen(job.name))
        return self.parameters - routed + round(routed * share_of_experts(self.config))

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """Live names of tensors that are those of a job too, and that job's name."""
        return heads_to_fill(self.config, [job.name for job in self.jobs])


def _is_chosen(name: str) -> bool:
    """Return whether a tensor is of an expert; a change's inputs, which decide, are all taken."""
    return locate(name).component == "experts" or name.endswith((".expert_out", ".expert_bias"))


def sizes_sentence(built: MergePlan) -> str:
    """Say how large a mixture is; nothing where a token meets all of the model."""
    if built.parameters_per_token == built.parameters:
        return ""
    return (
        f"{built.parameters:,} parameters, of which a token meets {built.parameters_per_token:,}."
    )
