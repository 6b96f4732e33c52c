"""Runs items forward and backward, some at a time, and leaves the gradient with the weights.

Rows are plain: neither packed nor behind a cached prefix, since what is shared would have to be
kept for the backward pass. When memory runs out, everything is repeated with half as many rows at
a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.core.errors import UserError
from evomerge.core.memory import is_out_of_memory
from evomerge.evaluate.gradient.losses import FUNCTIONS, Answers
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Likelihoods, selected_logits
from evomerge.evaluate.likelihood.read import read_logits
from evomerge.evaluate.outcomes import Item, NonFiniteError
from evomerge.evaluate.scoring.choice_table import ChoiceTable
from evomerge.evaluate.scoring.plan import Asked, ScoringPlan
from evomerge.evaluate.token_requests import Pair

# (3 or 4, positions): log-probability, margin, whether greedy decoding agrees, and entropy
Table = Tensor


class NoRoomError(MemoryError):
    """Says that not even one item fits into memory forward and backward."""


@dataclass(frozen=True)
class LossItem:
    """Holds an item of a plan: its pairs by number, and which of them make each right answer."""

    asked: Asked
    pairs: tuple[int, ...]
    right: tuple[tuple[int, ...], ...]
    choices: ChoiceTable | None


class Backward:
    """Computes losses and their gradient by all weights of a model.

    Attributes:
        rows: Most rows that go through the model at once; halved when memory runs out.
        seconds: Time of the last call.
    """

    def __init__(self, model: Any, rows: int, max_length: int) -> None:
        self.model = model
        self.rows = rows
        self.seconds = 0.0
        self._max_length = max_length

    def __call__(
        self,
        plan: ScoringPlan,
        loss: str,
        weights: Mapping[str, float],
        written: Sequence[Pair] = (),
        forget: Callable[[], None] | None = None,
        references: Mapping[Item, float] | None = None,
    ) -> tuple[float, Likelihoods]:
        """Add the gradient of ``sum_i w_i loss_i`` to the ``grad`` of the model's weights.

        Args:
            plan: The items' pairs.
            loss: A name in `losses.FUNCTIONS`.
            weights: Of each item of a task.
            written: The model's own answers to the plan's prompts, for ``entropy``.
            forget: Undoes what was added up so far; ``None`` clears the weights' ``grad``.
            references: By item of preferences, what ``dpo`` compares with, see `losses.Answers`.

        Returns:
            The weighted loss, and the likelihoods of the plan's pairs on the way.

        Raises:
            UserError: An item has no right answer.
            NonFiniteError: Logits are not finite.
            NoRoomError: Not even one item fits.
        """
        began = time.perf_counter()
        items = loss_items(plan, needs_right=loss != "entropy")
        pairs = [*plan.pairs, *written]
        while True:
            batches = list(self._batches(items, pairs))
            try:
                value, tables = self._run(batches, pairs, loss, weights, references or {})
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if max(map(len, batches)) == 1:
                    raise NoRoomError(str(error)) from None
            (forget or self._clear)()
            self.rows = max(1, self.rows // 2)
        self.seconds = time.perf_counter() - began
        return value, _likelihoods(plan, tables)

    def _clear(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def _batches(
        self, items: Sequence[LossItem], pairs: Sequence[Pair]
    ) -> Iterator[list[LossItem]]:
        """Yield items that go together, the longest first; the order depends on them alone."""

        def length(item: LossItem) -> int:
            of_item = [pairs[number] for number in item.pairs]
            return max(len(pair.context) + len(pair.continuation) for pair in of_item)

        batch: list[LossItem] = []
        for item in sorted(items, key=lambda one: (-length(one), one.asked.item)):
            if batch and sum(len(one.pairs) for one in (*batch, item)) > self.rows:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _run(
        self,
        batches: Sequence[Sequence[LossItem]],
        pairs: Sequence[Pair],
        loss: str,
        weights: Mapping[str, float],
        references: Mapping[Item, float],
    ) -> tuple[float, dict[int, np.ndarray]]:
        value = 0.0
        tables: dict[int, np.ndarray] = {}
        for batch in batches:
            numbers = [number for item in batch for number in item.pairs]
            of_pair = self._forward(numbers, pairs, with_entropy=loss == "entropy")
            losses = [
                weights[item.asked.item[0]]
                * FUNCTIONS[loss](_answers(item, of_pair, pairs, references.get(item.asked.item)))
                for item in batch
            ]
            total = torch.stack(losses).sum()
            if not bool(torch.isfinite(total)):
                raise NonFiniteError(*_first_broken(batch, losses))
            total.backward()  # type: ignore[no-untyped-call]
            value += float(total.detach())
            tables |= {n: table.detach().double().cpu().numpy() for n, table in of_pair.items()}
        return value, tables

    def _forward(
        self, numbers: Sequence[int], every: Sequence[Pair], with_entropy: bool
    ) -> dict[int, Table]:
        """Return the table of each of these pairs, with its way back to the weights."""
        pairs = [every[number] for number in numbers]
        config = self.model.config.get_text_config(decoder=True)
        made = make_batches(
            pairs,
            max(self.rows, len(pairs)),
            self._max_length,
            self.model.device,
            vocabulary_size=int(config.vocab_size),
        )
        tables: dict[int, Table] = {}
        for batch in made:
            logits = selected_logits(self.model, batch)
            whole = read_logits(logits, batch.targets, batch.absent)
            if with_entropy:
                logs = logits.log_softmax(-1)
                whole = torch.cat([whole, -(logs.exp() * logs).sum(-1)[None]])
            stops = np.append(batch.starts[1:], whole.shape[1])
            for k, start, stop in zip(batch.pairs, batch.starts, stops, strict=True):
                tables[numbers[k]] = whole[:, start:stop]
        return tables


@contextmanager
def weight_gradients(model: torch.nn.Module) -> Iterator[None]:
    """Let a model's weights take gradients, and forget these at the end."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def loss_items(plan: ScoringPlan, needs_right: bool = True) -> list[LossItem]:
    """List the items of a plan, with the pairs that its loss needs; prompts count after the pairs.

    Raises:
        UserError: An item has no right answer.
    """
    rows: dict[Item, ChoiceTable] = {}
    for choosing, table in plan.tables:
        rows |= {item: _row(table, i) for i, item in enumerate(choosing)}
    items = []
    for asked in plan.asked:
        several = [
            where if isinstance(where, range) else [len(plan.pairs) + one for one in where]
            for where in (*asked.requests, asked.golds)
        ]
        numbers = [number for where in several for number in where]
        choices = rows.get(asked.item)
        right: tuple[tuple[int, ...], ...] = tuple((number,) for number in asked.golds)
        if choices is not None:
            shift = numbers[0]
            alone = None if choices.alone is None else choices.alone - shift
            choices = replace(choices, pairs=choices.pairs - shift, alone=alone)
        elif not right and asked.kinds in (("loglikelihood",), ("loglikelihood_rolling",)):
            right = (tuple(numbers),)
        elif not right and needs_right:
            task, document = asked.item
            raise UserError(
                f"task '{task}', document {document}: it has no right answer to learn from: leave "
                "the task out, give it weight 0 and a pool of its own, or set "
                "search.optimizer: catcma, which needs none"
            )
        items.append(LossItem(asked, tuple(numbers), right, choices))
    return items


def _row(table: ChoiceTable, i: int) -> ChoiceTable:
    one = slice(i, i + 1)
    alone = None if table.alone is None else table.alone[one]
    return ChoiceTable(
        table.pairs[one], alone, table.lengths[one], table.right[one], table.wrong[one]
    )


def _answers(
    item: LossItem, tables: Mapping[int, Table], pairs: Sequence[Pair], reference: float | None
) -> Answers:
    return Answers(
        [tables[number][0] for number in item.pairs],
        [tables[number][1] for number in item.pairs],
        [tables[number][3] for number in item.pairs if len(tables[number]) > 3],
        [len(pairs[number].continuation) for number in item.pairs],
        [[item.pairs.index(number) for number in group] for group in item.right],
        item.choices,
        reference,
    )


def _first_broken(batch: Sequence[LossItem], losses: Sequence[Tensor]) -> Item:
    broken = [not bool(torch.isfinite(loss)) for loss in losses]
    return batch[broken.index(True) if any(broken) else 0].asked.item


def _likelihoods(plan: ScoringPlan, tables: Mapping[int, np.ndarray]) -> Likelihoods:
    """Return the tables of all pairs as `Forward` gives them."""
    numbers = range(len(plan.pairs))
    lengths = [tables[number].shape[1] for number in numbers]
    stops = np.cumsum(lengths, dtype=int)
    parts = [tables[number][:3] for number in numbers]
    table = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
    n_tokens = np.array([len(pair.continuation) for pair in plan.pairs], int)
    return Likelihoods(table, stops - np.array(lengths, int), stops, n_tokens)
