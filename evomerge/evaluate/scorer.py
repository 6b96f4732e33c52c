"""Scores a resident model on items: the same requests every time, only the weights change."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.generation.decode import Decoder
from evomerge.evaluate.generation.generation import TextGenerator
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.gradient.backward import Backward
from evomerge.evaluate.likelihood.attention import PackingSupport, packing_support
from evomerge.evaluate.likelihood.batches import MAX_BATCH_LOGITS, Batch, make_batches, sizes_of
from evomerge.evaluate.likelihood.context_cache import ContextCacheSupport, context_cache_support
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.likelihood.packing import ROW_TOKENS
from evomerge.evaluate.outcomes import Item, OutcomeRow, ScoreKind, score_kind_of
from evomerge.evaluate.scoring.judge import outcomes
from evomerge.evaluate.scoring.plan import ScoringPlan, make_plan
from evomerge.evaluate.scoring.shown import ShownItem, shown_items
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.gold_check import check_golds
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.evaluate.tasks.right_answers import rows_of
from evomerge.evaluate.token_requests import Pair

_NOT_PACKED = (
    "this model does not give the same logits for rows packed with a block mask ({why}): shared "
    "contexts are computed again for every choice"
)
_ONLY_CONTEXTS = (
    "this model's rows cannot be packed with a block mask ({why}): a context is read once for all "
    "its choices, but every choice is a row of its own, and what has no choices is computed in "
    "plain rows"
)
_NOT_DECODED = "this model's generation is not plain greedy decoding: lm-eval's own loop runs it"
CACHED_PLANS = 64  # a generation asks for the same item sets again and again: a shard each


class Scorer:
    """Scores a live model on the items of a harness.

    The model may have its weights written over between calls; nothing here remembers them.

    Attributes:
        seconds: Time spent in the model during the last call of `score`.
        warnings: Messages about fast paths that this model does not allow.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        harness: Harness,
        batch_size: int = 64,
        decoder: Decoder | VllmDecoder | None = None,
        like: Scorer | None = None,
    ) -> None:
        """Try out which fast paths the model allows.

        Args:
            model: The live model.
            tokenizer: Its tokenizer.
            harness: The tasks.
            batch_size: Rows of a batch.
            decoder: A separate engine; ``None`` generates with the live model.
            like: The scorer of a model of the same architecture and vocabulary with other layers
                or widths, whose fast paths are this one's too.
        """
        if batch_size < 1:
            raise UserError(f"expected `batch_size` to be at least 1, but it is {batch_size}")
        self.harness = harness
        self.batch_size = batch_size
        self.seconds = 0.0
        self._model = model
        self._tokenizer = tokenizer
        self._stock = stock_model(model, tokenizer, batch_size, harness.model_args)
        alike = like is not None and like._stock.max_length == self._stock.max_length
        self._encoder: Encoder = like._encoder if like and alike else Encoder(self._stock, harness)
        self._forward = Forward(model)
        self._references: dict[Item, float] = like._references if like else {}
        self._backward = Backward(model, batch_size, self._stock.max_length)
        self._packing: PackingSupport = like._packing if like else packing_support(model)
        self._max_packed_length = self._packing.max_length
        self._context_cache: ContextCacheSupport
        if like:
            self._context_cache = like._context_cache
        elif self._max_packed_length:
            self._context_cache = ContextCacheSupport()
        else:
            self._context_cache = context_cache_support(model)
        self._generation = TextGenerator(
            self._stock,
            self._encoder,
            decoder or Decoder(model, tokenizer, batch_size, self._max_packed_length),
            lambda pairs: self._forward(self._batches(pairs), pairs),
        )
        self.warnings = []
        if not self._max_packed_length:
            warning = _ONLY_CONTEXTS if self._context_cache.max_length else _NOT_PACKED
            self.warnings.append(warning.format(why=self._packing.why_not))
        if not self._generation.is_plain:
            self.warnings.append(_NOT_DECODED)
        self._plans: OrderedDict[tuple[ScoreKind, tuple[Item, ...]], ScoringPlan] = OrderedDict()
        if like and alike and sizes_of(like._model) == sizes_of(model):
            self._plans = like._plans

    def check(self) -> list[str]:
        """Return warnings before anything is spent: about right answers, and what will be slow.

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
        return self.score_shards([items], score_kind)[0]

    def score_shards(
        self, shards: Sequence[Mapping[str, Sequence[int]]], score_kind: ScoreKind
    ) -> list[list[OutcomeRow]]:
        """Score several sets of items as `score` does, each in batches of its own.

        A streamed model runs all of them in one pass.
        """
        each = [self._checked(items) for items in shards]
        plans = [self._plan(checked, score_kind) for checked in each]
        self._forward.seconds = self._generation.seconds = self.seconds = 0.0
        likelihoods = self._forward.each([(plan.batches, plan.pairs) for plan in plans])
        scored = []
        for checked, plan, read in zip(each, plans, likelihoods, strict=True):
            answers = self._generation(plan.prompts)
            rows = outcomes(plan, read, answers, score_kind, self.harness)
            if len(rows) != len(checked):
                rows += self._function_rows(checked)
                by_item = {(row.task, row.doc_id): row for row in rows}
                rows = [by_item[item] for item in checked]
            scored.append(rows)
        self.seconds += self._forward.seconds + self._generation.seconds
        return scored

    def goes_side_by_side(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> bool:
        """Return whether all that these items ask for is likelihoods, in batches of their own."""
        checked = self._checked(items)
        plan = self._plan(checked, score_kind)
        strange = {task for task, _ in checked} & {*self.harness.functions, *self.harness.lengths}
        return (
            not strange
            and not plan.prompts.requests
            and bool(plan.batches)
            and all(batch.contexts is None for batch in plan.batches)
        )

    def tokens(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> int:
        """Return how many tokens of a model's input these items are, padding included."""
        plan = self._plan(self._checked(items), score_kind)
        return sum(batch.inputs.numel() for batch in plan.batches)

    def models_at_once(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> int:
        """Return how many models side by side are about as much work as a full batch of one."""
        plan = self._plan(self._checked(items), score_kind)
        vocabulary = int(self._model.config.get_text_config(decoder=True).vocab_size)
        longest = max(batch.inputs.numel() for batch in plan.batches)
        most_logits = max(len(batch.rows) for batch in plan.batches) * vocabulary
        by_tokens = self.batch_size * ROW_TOKENS // longest
        return max(1, min(by_tokens, MAX_BATCH_LOGITS // most_logits))

    def score_side_by_side(
        self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind, models: int
    ) -> Iterator[list[OutcomeRow] | None]:
        """Score the models that run side by side, within `side_by_side`, on items that go so.

        Their scores are those of each model by itself but for rounding.

        Yields:
            Each model's outcomes, in the items' order; ``None`` where its logits are not finite.
        """
        plan = self._plan(self._checked(items), score_kind)
        self._forward.seconds = 0.0
        scored = self._forward.side_by_side(plan.batches, plan.pairs, models)
        self.seconds = self._forward.seconds
        for likelihoods in scored:
            if likelihoods is None:
                yield None
            else:
                yield outcomes(plan, likelihoods, [], score_kind, self.harness)

    def backward(
        self,
        items: Mapping[str, Sequence[int]],
        loss: str,
        weights: Mapping[str, float],
        forget: Callable[[], None] | None = None,
    ) -> tuple[list[OutcomeRow], float]:
        """Score items, and add a loss's gradient to the weights' ``grad``.

        Call it within `weight_gradients` or `projected_gradients`. The score is the smooth one, or
        the metric for ``entropy``, which looks at the answers that the model writes. Scores equal
        those of `score` but for rounding, since items go through the model in other batches.

        Args:
            items: Document numbers of each task.
            loss: A name in `gradient.losses.FUNCTIONS`.
            weights: What the loss of an item of each task counts.
            forget: Undoes what was added up so far, when memory runs out and all is done again;
                ``None``: the weights' ``grad`` is cleared.

        Returns:
            One outcome per item, in the order given, and the weighted sum of the losses.

        Raises:
            UserError: An item has no right answer.
            NonFiniteError: If the model's logits are NaN or infinite on an item.
            NoRoomError: If the memory does not hold one item forward and backward.
        """
        checked = self._checked(items)
        functions = sorted({task for task, _ in checked} & set(self.harness.functions))
        if functions:
            raise UserError(
                f"task '{functions[0]}': it is a function, which has no gradient: set "
                "search.optimizer: catcma"
            )
        kind = score_kind_of(loss)
        lengths = {task: ids for task, ids in items.items() if task in self.harness.lengths}
        if lengths:  # counted, not differentiated
            counted = self.score(lengths, kind)
            counting = self.seconds
            differentiated = {task: ids for task, ids in items.items() if task not in lengths}
            rows, value = self.backward(differentiated, loss, weights, forget)
            self.seconds += counting
            by_item = {(row.task, row.doc_id): row for row in (*rows, *counted)}
            return [by_item[item] for item in checked], value
        plan = self._plan(checked, kind)
        self._generation.seconds = 0.0
        answers = self._generation(plan.prompts) if kind == "metric" else []
        prompted = zip(plan.prompts.requests, answers, strict=False)
        written = [self._encoder.written(*asked, answer.text) for asked, answer in prompted]
        references = self._references if loss == "dpo" else None
        value, likelihoods = self._backward(plan, loss, weights, written, forget, references)
        self.seconds = self._backward.seconds + self._generation.seconds
        return outcomes(plan, likelihoods, answers, kind, self.harness), value

    @property
    def rows_at_once(self) -> int:
        """Most rows that go forward and backward at once: halved whenever memory runs out."""
        return self._backward.rows

    def without_reference(self, items: Mapping[str, Sequence[int]]) -> list[Item]:
        """Return the items of preferences to which ``dpo`` has nothing to compare with yet."""
        preferences = (item for item in self._checked(items) if item[0] in self.harness.preferences)
        return [item for item in preferences if item not in self._references]

    def refer(self, items: Sequence[Item]) -> None:
        """Take the model as it is now, the base, for what ``dpo`` compares these items with.

        One item at a time, so that what comes of it does not depend on the others.
        """
        for item in items:
            plan = self._plan([item], "smooth")
            chosen, rejected = self._forward(plan.batches, plan.pairs).totals[:2].tolist()
            self._references[item] = chosen - rejected

    def written(self, items: Mapping[str, Sequence[int]]) -> list[ShownItem]:
        """Return prompt, answer and right answer of each item that has texts, of the model now."""
        checked = tuple(i for i in self._checked(items) if i[0] not in self.harness.lengths)
        plan = self._plan(checked, "metric")
        likelihoods = self._forward(plan.batches, plan.pairs)
        return shown_items(plan, likelihoods, self._generation(plan.prompts), self.harness)

    def right_answers(self, items: Mapping[str, Sequence[int]]) -> dict[str, list[dict[str, str]]]:
        """Return the rows of text that items make (`tasks.right_answers`)."""
        self._checked(items)
        return rows_of(self.harness, self._encoder, items)

    def composition(self, items: Mapping[str, Sequence[int]], score_kind: ScoreKind) -> str:
        """Return the digest of the batches that `score` puts these items in (`batch_digest`)."""
        return self._plan(self._checked(items), score_kind).composition

    def _function_rows(self, items: Sequence[Item]) -> list[OutcomeRow]:
        """Score the items that belong to users' functions."""
        began = time.perf_counter()
        rows = []
        for name, function in self.harness.functions.items():
            doc_ids = [doc_id for task, doc_id in items if task == name]
            if doc_ids:
                scores = function.scores(self._model, self._tokenizer, doc_ids)
                scored = zip(doc_ids, scores, strict=True)
                rows += [OutcomeRow(name, doc_id, metric=score) for doc_id, score in scored]
        self.seconds += time.perf_counter() - began
        return rows

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

    def _plan(self, checked: Sequence[Item], score_kind: ScoreKind) -> ScoringPlan:
        """Return the plan of all items but those that users' functions score."""
        items = tuple(item for item in checked if item[0] not in self.harness.functions)
        plan = self._plans.pop((score_kind, items), None)
        if plan is None:
            plan = make_plan(
                items, score_kind, self.harness, self._encoder, self._batches, self._generation
            )
        self._plans[score_kind, items] = plan
        if len(self._plans) > CACHED_PLANS:
            self._plans.popitem(last=False)
        return plan

    def _batches(self, pairs: Sequence[Pair]) -> list[Batch]:
        return make_batches(
            pairs,
            self.batch_size,
            self._stock.max_length,
            self._model.device,
            self._max_packed_length,
            *sizes_of(self._model),
            self._context_cache,
        )
