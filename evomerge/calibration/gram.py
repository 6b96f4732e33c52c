"""Adds up x x^T over the inputs x of every linear layer, as a model reads its rows.

Whatever a model multiplies by a stored weight is seen: `torch.nn.functional.linear` and GPT-2's
`addmm` are watched, not modules, so that each expert of a fused layer is met with the tokens that
are routed to it. Layers that read the same input share a matrix. As many matrices as memory allows
are added up at a time, and the rows are run again for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evomerge.calibration.rows import Row, batches
from evomerge.merge.live_layout import views

BUDGET = 4 << 30  # bytes of matrices at a time: six layers of a 7B model


class _Span(NamedTuple):
    """A stored matrix within a live model's memory: its first byte, sizes and strides."""

    start: int
    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Shared(NamedTuple):
    """Names the matrix that a stored weight has.

    Attributes:
        leader: The weight under whose name the matrix is kept.
        transposed: Whether the stored weight's rows are inputs.
    """

    leader: str
    transposed: bool


def grams(
    model: Any,
    names: Sequence[str],
    rows: Sequence[Row],
    keep: Callable[[Mapping[str, Tensor]], None],
    budget: int = BUDGET,
) -> dict[str, Shared]:
    """Compute the mean of x x^T over the tokens of all rows, for every weight that has inputs.

    A token that is not routed to an expert counts as an input of zeros.

    Args:
        model: The live model, float32.
        names: The stored tensors' names.
        rows: What it reads.
        keep: Takes matrices by their leader's name, (inputs, inputs) in float32, some at a time.
        budget: Bytes of matrices at a time; at least one is made.

    Returns:
        The leader of each weight that was met.
    """
    return _summed(_Watch(model, names, budget), model, rows, keep)


def directions(
    model: Any,
    names: Sequence[str],
    rows: Sequence[Row],
    keep: Callable[[Mapping[str, Tensor]], None],
) -> dict[str, Shared]:
    """Compute the mean of x / |x| over the tokens of all rows, (inputs,), as `grams` does x x^T."""
    return _summed(_Directions(model, names, BUDGET), model, rows, keep)


def _summed(
    watch: _Watch, model: Any, rows: Sequence[Row], keep: Callable[[Mapping[str, Tensor]], None]
) -> dict[str, Shared]:
    """Run the rows as often as it takes, and hand over the means."""
    _one_expert_at_a_time(model)
    total = sum(len(row.tokens) - 1 for row in rows)
    while True:
        watch.begin()
        with torch.inference_mode(), watch:
            for batch in batches(rows):
                tokens = torch.tensor([row.tokens[:-1] for row in batch], device=model.device)
                model(input_ids=tokens, use_cache=False)
        keep({name: matrix / total for name, matrix in watch.sums.items()})
        if not watch.left:
            return watch.leaders


class _Watch(TorchFunctionMode):
    """Sees every product with a stored weight, and adds up its inputs."""

    def __init__(self, model: Any, names: Sequence[str], budget: int) -> None:
        super().__init__()
        embedding = model.get_input_embeddings().weight.data_ptr()
        stored = {n: t for n, t in views(model, names).items() if t.dim() == 2}
        spans = (
            _Span(t.data_ptr(), n, tuple(t.shape), t.stride())
            for n, t in stored.items()
            if t.data_ptr() != embedding  # nor a head that is tied to it
        )
        self._by_start: dict[int, list[_Span]] = {}
        for span in spans:
            self._by_start.setdefault(span.start, []).append(span)
        self._starts = sorted(self._by_start)
        self._within: dict[tuple[int, tuple[int, ...]], list[tuple[str, bool]]] = {}
        self._budget = budget
        self._done: set[str] = set()
        self.leaders: dict[str, Shared] = {}
        self.sums: dict[str, Tensor] = {}
        self.left: set[str] = set()
        self._last: tuple[Tensor, str] | None = None

    def begin(self) -> None:
        """Start a pass over the rows for matrices that no pass has made yet."""
        self._done |= self.sums.keys()
        self.sums, self.left, self._last = {}, set(), None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one call, and let it happen."""
        if func is torch.nn.functional.linear and len(args) > 1:
            self._see(args[0], args[1], inputs_axis=1)
        elif func is torch.addmm and len(args) > 2:
            self._see(args[1], args[2], inputs_axis=0)
        return func(*args, **(kwargs or {}))

    def _see(self, inputs: Tensor, weight: Tensor, inputs_axis: int) -> None:
        matrices = self._stored_in(weight, inputs_axis) if weight.dim() == 2 else []
        if not matrices:
            return
        again = self._last is not None and self._last[0] is inputs
        leader = self._last[1] if again and self._last is not None else matrices[0][0]
        leader = self.leaders.get(matrices[0][0], Shared(leader, False)).leader
        for name, transposed in matrices:
            self.leaders.setdefault(name, Shared(leader, transposed))
        if again and self._last is not None and self._last[1] == leader:
            return
        self._last = inputs, leader
        if leader in self._done or leader in self.left:
            return
        size = inputs.shape[-1]
        if leader not in self.sums:
            used = sum(4 * one.numel() for one in self.sums.values())
            fresh = self._zeros(size, inputs.device)
            if self.sums and used + 4 * fresh.numel() > self._budget:
                self.left.add(leader)
                return
            self.sums[leader] = fresh
        self._add(self.sums[leader], inputs.reshape(-1, size).float())

    def _zeros(self, size: int, device: torch.device) -> Tensor:
        return torch.zeros(size, size, device=device)

    def _add(self, total: Tensor, inputs: Tensor) -> None:
        """Add what inputs, (tokens, size), bring."""
        total.addmm_(inputs.T, inputs)

    def _stored_in(self, weight: Tensor, inputs_axis: int) -> list[tuple[str, bool]]:
        """List the stored matrices that lie in a weight, and whether their rows are inputs."""
        key = (weight.data_ptr(), (inputs_axis, *weight.shape, *weight.stride()))
        if key not in self._within:
            last = sum((n - 1) * s for n, s in zip(weight.shape, weight.stride(), strict=True))
            end = weight.data_ptr() + weight.element_size() * (last + 1)
            inner = (weight.shape[inputs_axis], weight.stride(inputs_axis))
            outer = weight.stride(1 - inputs_axis)
            listed = []
            for start in self._starts:
                if weight.data_ptr() <= start < end:
                    for span in self._by_start[start]:
                        for axis in (0, 1):
                            alike = (span.shape[axis], span.stride[axis]) == inner
                            if alike and span.stride[1 - axis] == outer:
                                listed.append((span.name, axis == 0))
                                break
            self._within[key] = listed
        return self._within[key]


class _Directions(_Watch):
    """Adds up unit inputs instead of their products."""

    def _zeros(self, size: int, device: torch.device) -> Tensor:
        return torch.zeros(size, device=device)

    def _add(self, total: Tensor, inputs: Tensor) -> None:
        total.add_(torch.nn.functional.normalize(inputs, dim=-1).sum(0))


def _one_expert_at_a_time(model: Any) -> None:
    """Have experts computed one by one, as transformers does when it is told to."""
    choose = getattr(model, "set_experts_implementation", None)
    if choose is not None and getattr(model.config, "_experts_implementation", None) is not None:
        choose("eager")
