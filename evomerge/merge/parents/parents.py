"""Holds the parents of a merge, opened once: memory-mapped on the CPU, or resident on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.architecture import is_head
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import check_compatible, check_same_kind, check_same_tokens
from evomerge.checkpoint.dtypes import FLOATS
from evomerge.checkpoint.opening import open_model
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError
from evomerge.merge.kernels.native import kernels_for
from evomerge.merge.kernels.statistics import Statistics
from evomerge.merge.live_layout import views
from evomerge.merge.parents.memo import Memo
from evomerge.merge.parents.provider import Provider
from evomerge.merge.parents.thresholds import Magnitudes
from evomerge.merge.plan.matching import check_labels
from evomerge.merge.plan.plan import Ref, TensorJob
from evomerge.merge.vocabulary.align import aligned
from evomerge.methods.of_data import Direction, Gram, Recall, Squares, made_anew
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Data

Flat = tuple[tuple[Ref | None, ...], Tensor | None, list[Tensor]]  # names, base, models


@dataclass
class KeptMerges:
    """Merges within recipes that stay in memory because the next recipe has them too.

    Attributes:
        made: By their digest, the latest last.
        before: The digest that stood under a name in the recipe before.
    """

    made: dict[str, Checkpoint] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)


class Parents:
    """Open checkpoints by the names that recipes give them.

    On the CPU tensors stay memory-mapped, so that processes of one machine share one copy; what an
    adapter changes is computed for each merge and forgotten after it. On another device each is
    copied there when it is first needed, and stays.

    Attributes:
        stay: Whether they do: else each is copied whenever a merge needs it, and dropped with it,
            so that the device holds the inputs of one tensor at a time.
    """

    def __init__(self, models: Iterable[str], device: str = "cpu"):
        self.stay = True
        self.opened = {model: open_model(model) for model in models}
        self.checkpoints: Mapping[str, Checkpoint] = self.opened  # with the vocabulary of a recipe
        self.device = torch.device(device)
        self.devices: Mapping[str, torch.device] = {}  # by a tensor's name, if they are several
        self.kernels = kernels_for(self.device)
        self.statistics = Statistics()
        self._resident: dict[tuple[Ref, torch.device], Tensor] = {}
        self._flat: dict[tuple[Ref | None, tuple[Ref, ...], torch.device], Flat] = {}
        self._magnitudes: dict[tuple[str, str, torch.dtype], Magnitudes] = {}
        self._passing: frozenset[str] = frozenset()  # models whose tensors are never resident
        self.provider: Provider | None = None
        self._computed: tuple[str, dict[Ref, Tensor]] = ("", {})  # of one name, for one job
        self.low_rank: dict[tuple[Ref, Ref], Any] = {}  # parts of deltas, see `merge.low_rank`
        self.kept: KeptMerges | None = None  # without it every merge is made anew
        self.memo: Memo | None = None  # without it nothing is recalled from candidate to candidate

    def beside(self, opened: Mapping[str, Checkpoint], passing: Iterable[str]) -> Parents:
        """Return other parents that share resident tensors; `passing` ones are never resident."""
        other = Parents((), str(self.device))
        other.devices, other.stay = self.devices, self.stay
        other.checkpoints = other.opened = dict(opened)
        other._resident, other.statistics = self._resident, self.statistics
        other.low_rank = self.low_rank
        other._passing = frozenset(passing)
        other.provider, other.kept, other.memo = self.provider, self.kept, self.memo
        return other

    def is_passing(self, model: str) -> bool:
        """Return whether a model is a merge whose tensors are never resident."""
        return model in self._passing

    def check(self, recipe: Recipe) -> None:
        """Align the parents with a recipe's vocabulary, and refuse those that do not fit.

        Raises:
            UserError: Tensors or tokens differ, or one holds a value that is not finite.
        """
        donor = self.opened[recipe.donor]
        for checkpoint in self.opened.values():
            check_same_kind(donor, checkpoint)
            if recipe.vocabulary is None:
                check_same_tokens(donor, checkpoint)
        self.checkpoints, self._resident = aligned(recipe, self.opened), {}
        self._flat, self._computed = {}, ("", {})
        self.statistics, self.low_rank, self.memo = Statistics(), {}, None
        for checkpoint in self.checkpoints.values():
            if not recipe.slices:
                _check_tensors(recipe, self.checkpoints[recipe.donor], checkpoint)
        check_labels(recipe, self.checkpoints)
        self.check_finite()

    def tensor(self, ref: Ref) -> Tensor:
        """Return one parent's tensor, in its stored dtype; never to be written to."""
        return self._on(ref, self.devices.get(ref.name, self.device))

    def device_for(self, out: Tensor) -> torch.device:
        """Return the device a tensor is merged on: the live one's, if those are on several."""
        return out.device if self.devices else self.device

    def spread(self, model: torch.nn.Module) -> None:
        """Place each tensor on the device where a live model has it."""
        names = dict.fromkeys(n for one in self.checkpoints.values() for n in one.tensors)
        self.devices = {name: tensor.device for name, tensor in views(model, names).items()}

    def _on(self, ref: Ref, device: torch.device) -> Tensor:
        if ref.model in self._passing:
            return self.checkpoints[ref.model].tensor(ref.name).to(device)
        tensor = self._resident.get((ref, device))
        if tensor is None:
            if self._is_computed(ref, device):
                return self._computed_tensor(ref)
            tensor = copied(self.checkpoints[ref.model].tensor(ref.name), device)
            if self.stay:
                self._resident[ref, device] = tensor
        return tensor

    def _is_computed(self, ref: Ref, device: torch.device) -> bool:
        """Return whether a tensor takes memory of its own on the CPU, and is made when needed."""
        return device.type == "cpu" and self.checkpoints[ref.model].computes(ref.name)

    def _computed_tensor(self, ref: Ref) -> Tensor:
        """Compute a tensor, unless it is the last job's still, which asks for it several times."""
        if self._computed[0] != ref.name:
            self._computed = ref.name, {}
        tensors = self._computed[1]
        if ref not in tensors:
            tensors[ref] = self.checkpoints[ref.model].tensor(ref.name)
        return tensors[ref]

    def flat(self, job: TensorJob, device: torch.device) -> Flat:
        """Return a job's inputs on a device, each tensor as one row of numbers."""
        sources = (job.base, job.models, device)
        inputs = self._flat.get(sources)
        if inputs is None:
            base = None if job.base is None else self._on(job.base, device).reshape(-1)
            models = [self._on(ref, device).reshape(-1) for ref in job.models]
            inputs = (job.base, *job.models), base, models
            refs = [ref for ref in inputs[0] if ref is not None]
            if (
                self.stay
                and not self._passing
                and not any(self._is_computed(ref, device) for ref in refs)
            ):
                self._flat[sources] = inputs
        return inputs

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Return the size and time of change of every file as they are now; (-1, -1) if gone.

        The time is in nanoseconds. A file that is written over or replaced has another stamp.
        """
        stamps = {}
        for checkpoint in self.opened.values():
            for file in checkpoint.store.files:
                try:
                    status = file.stat()
                    stamps[str(file)] = (status.st_size, status.st_mtime_ns)
                except OSError:
                    stamps[str(file)] = (-1, -1)
        return stamps

    def factors(self, ref: Ref, base: str, device: torch.device) -> Factors | None:
        """Return what adapters on `base` add to one parent's tensor as one product, on a device.

        ``None`` where they add nothing, change it otherwise, or the parent is no adapter on it.
        """
        adapters = model_name.adapters_on(ref.model, base)
        pairs = adapters and self.checkpoints[ref.model].factors(ref.name, adapters)
        if not pairs:
            return None
        left = torch.cat([pair.left for pair in pairs], dim=1)  # (rows, their ranks together)
        right = torch.cat([pair.right for pair in pairs])
        return Factors(left.to(device), right.to(device))

    def of_data(
        self, kind: str, ref: Ref, recipe: Recipe, device: torch.device, required: bool = False
    ) -> Gram | Squares | Direction | None:
        """Return what a model's own rows say of one of its tensors, on a device.

        Args:
            kind: ``gram``, ``fisher`` or ``inputs``.
            ref: The tensor.
            recipe: Whose models bring rows.
            device: Where.
            required: Whether a model without rows is an error.

        Raises:
            UserError: The model has none, or they cannot be used; see `Provider`.
        """
        data = self._rows_of(kind, ref.model, recipe, required)
        if data is None:
            return None
        assert self.provider is not None, "`_rows_of` has looked"
        given = self.provider(ref.model, kind, data, recipe.calibration)(ref.name)
        if isinstance(given, Gram):
            return given._replace(matrix=given.matrix.to(device))
        return given and given._replace(values=given.values.to(device))

    def masks(self, job: TensorJob, recipe: Recipe, device: torch.device) -> list[Tensor]:
        """Return what each element of each model's change is multiplied by, on a device.

        It is learned once along the rows of all models of the recipe; 1 where nothing was.

        Raises:
            UserError: A model has none, or they cannot be used; see `Provider`.
        """
        assert job.base is not None, f"{job.method} masks changes, and takes a base"
        for entry in recipe.models:
            if entry.model != recipe.base_model:
                self._rows_of("mask", entry.model, recipe, required=True)
        assert self.provider is not None, "`_rows_of` has looked"
        mask = self.provider.masks(recipe)
        learned = [mask(ref.model, job.base.name) for ref in job.models]
        return [
            torch.ones(job.shape, device=device) if one is None else one.to(device)
            for one in learned
        ]

    def _rows_of(self, kind: str, model: str, recipe: Recipe, required: bool) -> Data | None:
        """Return a model's rows, if it has some, as something here can run them."""
        data = recipe.data_of(model)
        if data is None:
            if not required:
                return None
            raise UserError(
                f"{kind} needs rows of {model}: add `data: FILE` (JSON lines) to that model, "
                "or `tasks: [...]` to it in a study"
            )
        if model in self._passing:
            raise UserError(
                f"data: {model} is a merge within this recipe, and rows are run through models "
                "on disk: build it first, and name its folder"
            )
        if self.checkpoints[model] is not self.opened[model]:
            raise UserError(
                f"{model}: its rows were read with its own tokens, but this recipe's tokenizer "
                "moves them: build every parent with one tokenizer first"
            )
        if self.provider is None:
            raise UserError(
                f"{model}: nothing here can run its rows: call evomerge.build, which does"
            )
        return data

    def recall_for(self, job: TensorJob, recipe: Recipe, device: torch.device) -> Recall:
        """Return what recalls tensors that follow from a job's models and their rows."""
        if self.memo is None or any(ref.model in self._passing for ref in job.models):
            return made_anew
        data = [recipe.data_of(ref.model) for ref in job.models]
        rows = tuple(one and one.sha256 for one in data), recipe.calibration
        return self.memo.of(recipe, (job.models, device, recipe.dtype, rows))

    def gates(self, recipe: Recipe) -> Callable[[str], Tensor]:
        """Return the gates of a recipe's routed layers; see `Provider.gates`."""
        if self.provider is None:
            raise UserError("nothing here can train gates: call evomerge.build, which does")
        return self.provider.gates(recipe, self)

    def thresholds(self, job: TensorJob, working: torch.dtype) -> list[float]:
        """Return the smallest change that each model's density keeps over all tensors."""
        assert job.base is not None, f"{job.method} trims changes, and takes a base"
        thresholds = []
        for ref, density in zip(job.models, job.parameters["density"], strict=True):
            key = (job.base.model, ref.model, working)
            if key not in self._magnitudes:
                self._magnitudes[key] = Magnitudes().count(self._changes(*key))
            thresholds.append(self._magnitudes[key].threshold(density, self._changes(*key)))
        return thresholds

    def _changes(self, base: str, model: str, working: torch.dtype) -> Iterator[Tensor]:
        """Yield every change of a model, tensor by tensor, in float32."""
        for name, info in self.checkpoints[base].tensors.items():
            if info.dtype in FLOATS and name in self.checkpoints[model].tensors:
                before, after = (self.tensor(Ref(m, name)).to(working) for m in (base, model))
                yield after.float() - before.float()

    def statistics_of(self, job: TensorJob) -> Statistics:
        """Return the statistics of a job's tensors; those of passing models are not remembered."""
        if not self._passing:
            return self.statistics
        refs = [*job.models, *([job.base] if job.base is not None else [])]
        passing = any(ref.model in self._passing for ref in refs)
        return Statistics(on_disk=False) if passing else self.statistics

    def check_finite(self) -> None:
        """Refuse parents that hold NaN or infinity, naming the tensor.

        Raises:
            UserError: A tensor holds a value that is not finite.
        """
        for model, checkpoint in self.checkpoints.items():
            if model in self._passing:
                continue  # made of parents that have been checked
            for name in checkpoint.tensors:
                tensor = self.tensor(Ref(model, name))
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    bad = int((~torch.isfinite(tensor)).sum())
                    raise UserError(
                        f"{checkpoint.folder}: tensor {name} has {bad} values that are NaN or "
                        "infinite, which a merge would spread; repair or replace that model"
                    )


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: itself, if it is there."""
    return tensor.to(device)


def _check_tensors(recipe: Recipe, donor: Checkpoint, other: Checkpoint) -> None:
    """Refuse tensors that differ, unless the recipe says what to do with them."""
    if recipe.unmatched == "error":
        ignored = is_head if recipe.heads != "merge" else None
        check_compatible(donor, other, ignored)
