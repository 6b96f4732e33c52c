"""Scores a resident model on items: the same requests every time, only the weights change."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.generation.decode import Decoder
from evomerge.evaluate.generation.generation import Generation
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.likelihood.attention import deepest
from evomerge.evaluate.likelihood.likelihood import Batch, Forward, Pair, make_batches
from evomerge.evaluate.likelihood.stems import Depth, stem_depth
from evomerge.evaluate.outcomes import Item, OutcomeRow, ScoreKind
from evomerge.evaluate.scoring.encode import Encoder
from evomerge.evaluate.scoring.judge import outcomes
from evomerge.evaluate.scoring.plan import ScoringPlan, make_plan
from evomerge.evaluate.tasks.gold_check import check_golds
from evomerge.evaluate.tasks.harness import Harness, stock_model

_NOT_PACKED = (
    "this model does not give the same logits for rows packed with a block mask: shared contexts "
    "are computed again for every choice"
)
_ONLY_STEMS = (
    "this model takes no block mask: a context is read once for all its choices, but every choice "
    "is a row of its own, and what has no choices is computed in plain rows"
)
_NOT_DECODED = "this model's generation is not plain greedy decoding: lm-eval's own loop runs it"
PLANS_KEPT = 64  # a generation asks for the same item sets again and again: a shard each


class Scorer:
    """Scores a live model on the items of a harness.

    The model may have its weights written over between calls; nothing here remembers them.

    Attributes:
        seconds: Time spent in the model during the last call of `score`.
        warnings: What cannot be done in the fast way with this model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        harness: Harness,
        batch_size: int = 64,
        decoder: Decoder | VllmDecoder | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"expected `batch_size` to be at least 1, but it is {batch_size}")
        self.harness = harness
        self.batch_size = batch_size
        self.seconds = 0.0
        self._model = model
        self._tokenizer = tokenizer
        self._stock = stock_model(model, tokenizer, batch_size)
        self._encoder = Encoder(self._stock, harness)
        self._forward = Forward(model)
        self._deepest = deepest(model)
        self._depth = Depth() if self._deepest else stem_depth(model)
        self._generation = Generation(
            self._stock,
            self._encoder,
            decoder or Decoder(model, tokenizer, batch_size, self._deepest),
            self._look,
        )
        self.warnings = [
            text
            for text, fast in (
                (_ONLY_STEMS if self._depth.longest else _NOT_PACKED, self._deepest),
                (_NOT_DECODED, self._generation.is_plain),
            )
            if not fast
        ]
        self._plans: OrderedDict[tuple[ScoreKind, tuple[Item, ...]], ScoringPlan] = OrderedDict()

    def check(self) -> list[str]:
        """What the user should know before spending anything: golds, and what will be slow.

        Raises:
            UserError: Right answers are missing or out of reach (`gold_check`).
        """
        return [*check_golds(self.harness, self._encoder), *self.warnings]

    def score(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> list[OutcomeRow]:
        """Score the model as it is now.

        Equal weights give equal outcomes, bit for bit: nothing is drawn at random, and batches
        depend only on the set of items and on `batch_size`.

        Args:
            items: Document numbers of each task.
            score_kind: ``metric`` computes every task's own metric, and generates where the task
                does. ``smooth`` computes likelihoods of right answers, and the metric too where it
                costs nothing more.

        Returns:
            One outcome per item, in the order given.

        Raises:
            NonFiniteError: If the model's logits are NaN or infinite on an item.
        """
        checked = self._checked(items)
        plan = self._plan_of(checked, score_kind)
        self._forward.seconds = self._generation.seconds = 0.0
        likelihoods = self._forward(plan.batches, plan.pairs)
        texts = self._generation(plan.prompts)
        self.seconds = self._forward.seconds + self._generation.seconds
        found = outcomes(plan, likelihoods, texts, score_kind, self.harness)
        if len(found) == len(checked):
            return found
        found += self._functions(checked)
        places = {(outcome.task, outcome.doc_id): outcome for outcome in found}
        return [places[item] for item in checked]

    def composition(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> str:
        """Digest of the batches that `score` puts these items in (`composition.composition`)."""
        return self._plan_of(self._checked(items), score_kind).composition

    def _functions(self, items: Sequence[Item]) -> list[OutcomeRow]:
        """What users' functions say of the items that are theirs."""
        began = time.perf_counter()
        found = []
        for name, function in self.harness.functions.items():
            asked = [doc_id for task, doc_id in items if task == name]
            if asked:
                scores = function.scores(self._model, self._tokenizer, asked)
                pairs = zip(asked, scores, strict=True)
                found += [OutcomeRow(name, doc_id, metric=score) for doc_id, score in pairs]
        self.seconds += time.perf_counter() - began
        return found

    def _checked(self, items: Mapping[str, Sequence[int]]) -> tuple[Item, ...]:
        checked = []
        for task, doc_ids in items.items():
            if task not in self.harness.items:
                raise UserError(unknown("task", task, self.harness.items))
            known = set(self.harness.items[task])
            for doc_id in doc_ids:
                if doc_id not in known:
                    raise UserError(
                        f"expected documents 0 to {max(known)} of task '{task}', but got {doc_id}"
                    )
                checked.append((task, doc_id))
        return tuple(dict.fromkeys(checked))

    def _plan_of(self, checked: Sequence[Item], score_kind: ScoreKind) -> ScoringPlan:
        """The plan of all items but those that users' functions score."""
        items = tuple(item for item in checked if item[0] not in self.harness.functions)
        plan = self._plans.pop((score_kind, items), None)
        if plan is None:
            plan = make_plan(
                items, score_kind, self.harness, self._encoder, self._batches, self._generation
            )
        self._plans[score_kind, items] = plan
        if len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _look(self, pairs: Sequence[Pair]) -> None:
        """Raise `NonFiniteError` if the model's logits on these are not finite."""
        self._forward(self._batches(pairs), pairs)

    def _batches(self, pairs: Sequence[Pair]) -> list[Batch]:
        config = self._model.config.get_text_config(decoder=True)
        return make_batches(
            pairs,
            self.batch_size,
            self._stock.max_length,
            self._model.device,
            self._deepest,
            int(config.vocab_size),
            int(getattr(config, "hidden_size", 64)),
            self._depth,
        )
