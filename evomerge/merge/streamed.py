"""Makes a candidate's tensors when a live model asks for them, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint.loaded.layout import Place
from evomerge.merge.build import check_filled, check_place, check_range, written
from evomerge.merge.compute import TORCH_DTYPES, merge_into, merged
from evomerge.merge.digest import combined_digest, tensor_digest
from evomerge.merge.live_layout import places_of
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import MergePlan, TensorJob


class StreamedMerge:
    """The tensors of a plan under the names that a live model has for them.

    The bits are those of `build.fill`: each is merged as there, into memory of its own.

    Args:
        model: The live model; its weights are not looked at but for shape, dtype and device.
        built: The candidate.
        parents: Its parents.
        digests: Whether the digest of each tensor is noted as it is made.

    Raises:
        UserError: The model has no place for a tensor, or one that nobody fills.
    """

    def __init__(self, model: Any, built: MergePlan, parents: Parents, digests: bool = False):
        self._built, self._parents = built, parents
        self._digests: dict[str, str] | None = {} if digests else None
        self._state: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
        places = places_of(model, [job.name for job in built.jobs])
        self._jobs: dict[str, list[tuple[TensorJob, Place]]] = {}  # by live name
        for job in built.jobs:
            place = places.get(job.name)
            check_place(model, job, place and place.shape)
            if place is not None:
                self._jobs.setdefault(place.live, []).append((job, place))
        by_name = {
            job.name: (job, place.live) for jobs in self._jobs.values() for job, place in jobs
        }
        same: dict[int, str] = {id(self._state[live]): live for live in self._jobs}
        for live, tensor in self._state.items():
            if live in self._jobs:
                continue
            source = same.get(id(tensor))  # tied in this model, or by the candidate's config
            if source is None and built.tied.get(live) in by_name:
                source = by_name[built.tied[live]][1]
            if source is not None:
                self._jobs[live] = self._jobs[source]
        rest = {name: one for name, one in self._state.items() if name not in self._jobs}
        check_filled(model, rest)

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Merge the tensors of these names; those that the candidate has none for are left out.

        Raises:
            UserError: Values are beyond what the dtype can hold.
        """
        return {name: self._tensor(name) for name in names if name in self._jobs}

    def _tensor(self, name: str) -> Tensor:
        live = self._state[name]
        whole = torch.empty(live.shape, dtype=live.dtype, device=live.device)
        with torch.no_grad():
            for job, place in self._jobs[name]:
                part = place.of(whole)
                merge_into(part, job, self._parents, self._built.recipe)
                check_range(job, part)
                if self._digests is not None:
                    self._digests[job.name] = tensor_digest(written(part, self._dtype))
        return whole

    @property
    def _dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self._built.recipe.output_dtype]

    def digest(self) -> str:
        """Digest the weights as `build.live_digest` does: those that were made, as they were."""
        assert self._digests is not None, "the digests were noted"
        lines = []
        for job in self._built.jobs:
            noted = self._digests.get(job.name)
            if noted is None:  # the model left it out
                noted = tensor_digest(merged(job, self._parents, self._built.recipe))
            lines.append(f"{job.name} {noted}")
        return combined_digest(lines)
