"""Scores a resident model on items: the same requests every time, only the weights change."""

from __future__ import annotations

import contextlib
import io
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evomerge.errors import UserError, unknown
from evomerge.evaluate.choice_table import ChoiceTable
from evomerge.evaluate.composition import composition
from evomerge.evaluate.decode import Answer, Arranged, Decoder, Prompt, can_decode
from evomerge.evaluate.degenerate import is_degenerate
from evomerge.evaluate.encode import Encoder
from evomerge.evaluate.gold_check import check_golds
from evomerge.evaluate.harness import Harness, stock_model
from evomerge.evaluate.likelihood import Batch, Forward, Likelihoods, Pair, make_batches
from evomerge.evaluate.outcomes import Outcome
from evomerge.evaluate.packed import deepest
from evomerge.evaluate.request import Grade, Request
from evomerge.evaluate.smooth import smooth_answers, smooth_metric
from evomerge.evaluate.stems import Depth, stem_depth
from evomerge.evaluate.target import Choices
from evomerge.evaluate.vllm_decoder import VllmDecoder

Mode = Literal["smooth", "metric"]
Item = tuple[str, int]
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


@dataclass(frozen=True)
class _Asked:
    """Where an item's parts are in a plan.

    Attributes:
        item: The item.
        kinds: lm-eval's type of each request.
        requests: For each request the range of its pairs, or the number of its prompt.
        golds: The range of the pairs of its gold texts; empty where it has or needs none.
        graded: Whether lm-eval reads its metric off the answers.
    """

    item: Item
    kinds: tuple[str, ...]
    requests: tuple[range | int, ...]
    golds: range
    graded: bool


@dataclass(frozen=True)
class _Plan:
    """Everything about a set of items that does not depend on the weights."""

    asked: tuple[_Asked, ...]
    pairs: tuple[Pair, ...]
    batches: tuple[Batch, ...]
    prompts: tuple[tuple[Item, Request], ...]
    tables: tuple[tuple[tuple[Item, ...], ChoiceTable], ...]
    composition: str  # digest of the batches


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
        decoder: VllmDecoder | None = None,
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
        self._decoder = decoder or Decoder(model, tokenizer, batch_size, self._deepest)
        self._decodable = can_decode(model)
        self.warnings = [
            text
            for text, fast in (
                (_ONLY_STEMS if self._depth.longest else _NOT_PACKED, self._deepest),
                (_NOT_DECODED, self._decodable),
            )
            if not fast
        ]
        self._plans: OrderedDict[tuple[Mode, tuple[Item, ...]], _Plan] = OrderedDict()

    def check(self) -> list[str]:
        """What the user should know before spending anything: golds, and what will be slow.

        Raises:
            UserError: Right answers are missing or out of reach (`gold_check`).
        """
        return [*check_golds(self.harness, self._encoder), *self.warnings]

    def score(self, items: Mapping[str, Sequence[int]], mode: Mode) -> list[Outcome]:
        """Score the model as it is now.

        Equal weights give equal outcomes, bit for bit: nothing is drawn at random, and batches
        depend only on the set of items and on `batch_size`.

        Args:
            items: Document numbers of each task.
            mode: ``metric`` computes every task's own metric, generating where the task generates.
                ``smooth`` computes likelihoods of right answers, and the metric too where it costs
                nothing more.

        Returns:
            One outcome per item, in the order given.

        Raises:
            NonFiniteError: If the model's logits are NaN or infinite on an item.
        """
        checked = self._checked(items)
        plan = self._plan_of(checked, mode)
        self._forward.seconds = self._decoder.seconds = 0.0
        likelihoods = self._forward(plan.batches, plan.pairs)
        texts = self._generate(plan.prompts)
        self.seconds = self._forward.seconds + self._decoder.seconds
        outcomes = self._outcomes(plan, likelihoods, texts, mode)
        if len(outcomes) == len(checked):
            return outcomes
        outcomes += self._functions(checked)
        places = {(outcome.task, outcome.doc_id): outcome for outcome in outcomes}
        return [places[item] for item in checked]

    def composition(self, items: Mapping[str, Sequence[int]], mode: Mode) -> str:
        """Digest of the batches that `score` puts these items in (`composition.composition`)."""
        return self._plan_of(self._checked(items), mode).composition

    def _functions(self, items: Sequence[Item]) -> list[Outcome]:
        """What users' functions say of the items that are theirs."""
        began = time.perf_counter()
        outcomes = []
        for name, function in self.harness.functions.items():
            asked = [doc_id for task, doc_id in items if task == name]
            if asked:
                scores = function.scores(self._model, self._tokenizer, asked)
                pairs = zip(asked, scores, strict=True)
                outcomes += [Outcome(name, doc_id, metric=score) for doc_id, score in pairs]
        self.seconds += time.perf_counter() - began
        return outcomes

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

    def _plan_of(self, checked: Sequence[Item], mode: Mode) -> _Plan:
        """The plan of all items but those that users' functions score."""
        return self._plan(tuple(i for i in checked if i[0] not in self.harness.functions), mode)

    def _plan(self, items: tuple[Item, ...], mode: Mode) -> _Plan:
        plan = self._plans.pop((mode, items), None)
        if plan is None:
            plan = self._make_plan(items, mode)
        self._plans[mode, items] = plan
        if len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _make_plan(self, items: tuple[Item, ...], mode: Mode) -> _Plan:
        pairs: list[Pair] = []
        prompts: list[tuple[Item, Request]] = []
        asked = []
        choosing: dict[str, list[tuple[Item, Choices, list[int]]]] = {}
        for item in items:
            kind = self.harness.output_type(item[0])
            golds = (
                self._encoder.golds(item) if (kind, mode) == ("generate_until", "smooth") else []
            )
            requests = [] if golds else self.harness.requests(*item)
            where: list[range | int] = []
            for request in requests:
                if request.kind == "generate_until":
                    where.append(len(prompts))
                    prompts.append((item, request))
                else:
                    found = self._encoder.pairs(item, request)
                    where.append(range(len(pairs), len(pairs) + len(found)))
                    pairs += found
            span = range(len(pairs), len(pairs) + len(golds))
            pairs += golds
            graded = not golds
            if kind == "multiple_choice":
                choices = self.harness.choices(*item)
                if choices.golds:
                    numbers = [span.start for span in where if isinstance(span, range)]
                    choosing.setdefault(item[0], []).append((item, choices, numbers))
                    graded = not self.harness.chooses(item[0])
            kinds = tuple(request.kind for request in requests)
            asked.append(_Asked(item, kinds, tuple(where), span, graded))
        tables = tuple(
            (tuple(item for item, _, _ in some), ChoiceTable.of([(c, n) for _, c, n in some]))
            for some in choosing.values()
        )
        batches = tuple(self._batches(pairs))
        digest = self._composition(items, pairs, batches, prompts)
        return _Plan(tuple(asked), tuple(pairs), batches, tuple(prompts), tables, digest)

    def _composition(
        self,
        items: Sequence[Item],
        pairs: Sequence[Pair],
        batches: Sequence[Batch],
        prompts: Sequence[tuple[Item, Request]],
    ) -> str:
        encoded = [self._encoder.prompt(*one) if self._decodable else None for one in prompts]
        ours = [prompt for prompt in encoded if prompt is not None]
        told, arranged = "", [Arranged((), list(range(len(ours))))]
        if isinstance(self._decoder, VllmDecoder):  # which forms its batches as it goes
            told = self._decoder.name
        elif ours:
            arranged = list(self._decoder.arrange(ours))
        theirs = [item for (item, _), one in zip(prompts, encoded, strict=True) if one is None]
        stock = [self.batch_size, theirs] if theirs else []
        return composition(items, pairs, batches, ours, arranged, [told, stock])

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

    def _generate(self, asked: Sequence[tuple[Item, Request]]) -> list[Answer]:
        """Answer with our own loop what decodes greedily, the rest with lm-eval's."""
        answers: dict[int, Answer] = {}
        ours: dict[int, Prompt] = {}
        theirs: list[int] = []
        for number, (item, request) in enumerate(asked):
            prompt = self._encoder.prompt(item, request) if self._decodable else None
            if prompt is None:
                theirs.append(number)
            else:
                ours[number] = prompt
        if ours and isinstance(self._decoder, VllmDecoder):  # which does not tell broken weights
            probes = [self._encoder.probe(*asked[next(iter(ours))])]
            self._forward(self._batches(probes), probes)
        answers.update(zip(ours, self._decoder(list(ours.values())), strict=True))
        answers.update(zip(theirs, self._stock_answers([asked[i] for i in theirs]), strict=True))
        return [answers[number] for number in range(len(asked))]

    def _stock_answers(self, asked: Sequence[tuple[Item, Request]]) -> list[Answer]:
        if not asked:
            return []
        began = time.perf_counter()
        prompts = [self._encoder.probe(item, request) for item, request in asked]
        self._forward(self._batches(prompts), prompts)  # raises if the weights are broken
        # A task that samples draws from a generator of its own, the same one in every call.
        cuda = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(0)
            texts = self._stock.generate_until([request for _, request in asked], disable_tqdm=True)
        answers = []
        for text, (_, request) in zip(texts, asked, strict=True):
            most = self._encoder.most_tokens(request)
            written = self._stock.tok_encode(text, add_special_tokens=False)
            answers.append(Answer(text, truncated=len(written) >= most))
        self._decoder.seconds += time.perf_counter() - began
        return answers

    def _outcomes(
        self, plan: _Plan, likelihoods: Likelihoods, texts: Sequence[Answer], mode: Mode
    ) -> list[Outcome]:
        chosen: dict[Item, tuple[float, float]] = {}  # metric and smooth score
        for items, table in plan.tables:
            metric, smooth = table.judge(likelihoods.totals)
            chosen.update(
                zip(items, zip(metric.tolist(), smooth.tolist(), strict=True), strict=True)
            )
        grades = self._grades(plan, likelihoods, texts)
        answers = smooth_answers(likelihoods).tolist()
        outcomes = []
        for asked in plan.asked:
            task, doc_id = asked.item
            grade = grades.get(asked.item)
            value = chosen[asked.item][0] if asked.item in chosen else None
            value = value if grade is None else grade.value
            written = [texts[where] for where in asked.requests if isinstance(where, int)]
            smoothed = None
            if mode == "smooth":
                smoothed = self._smooth(asked, answers, chosen, value)
            outcomes.append(
                Outcome(
                    task=task,
                    doc_id=doc_id,
                    metric=value,
                    smooth=smoothed,
                    truncated=any(answer.truncated for answer in written),
                    extracted=grade is None or not written or grade.extracted,
                    degenerate=bool(written)
                    and not self._is_right(task, value)
                    and all(is_degenerate(answer.text, answer.truncated) for answer in written),
                )
            )
        return outcomes

    def _is_right(self, task: str, value: float | None) -> bool:
        """Whether the metric holds an answer for right: it may be right to write nothing."""
        if value is None:
            return False
        return value >= 0.5 if self.harness.metrics[task].higher_is_better else value <= 0.0

    def _grades(
        self, plan: _Plan, likelihoods: Likelihoods, texts: Sequence[Answer]
    ) -> dict[Item, Grade]:
        """What lm-eval says of the items that only it can grade."""
        totals, are_greedy = likelihoods.totals.tolist(), likelihoods.are_greedy.tolist()
        replies: dict[str, dict[int, list[Any]]] = {}
        for asked in plan.asked:
            if asked.graded:
                replies.setdefault(asked.item[0], {})[asked.item[1]] = [
                    _reply(kind, where, totals, are_greedy, texts)
                    for kind, where in zip(asked.kinds, asked.requests, strict=True)
                ]
        grades = {}
        for task, some in replies.items():
            for doc_id, grade in self.harness.grade(task, some).items():
                grades[task, doc_id] = grade
        return grades

    def _smooth(
        self,
        asked: _Asked,
        answers: Sequence[float],
        chosen: Mapping[Item, tuple[float, float]],
        value: float | None,
    ) -> float | None:
        task = asked.item[0]
        if asked.golds:
            return max(answers[asked.golds.start : asked.golds.stop])
        if asked.item in chosen:
            return chosen[asked.item][1]
        if asked.kinds == ("loglikelihood",) and isinstance(asked.requests[0], range):
            return answers[asked.requests[0].start]
        if value is None:
            return None
        return smooth_metric(value, self.harness.metrics[task].higher_is_better)


def _reply(
    kind: str,
    where: range | int,
    totals: Sequence[float],
    are_greedy: Sequence[bool],
    texts: Sequence[Answer],
) -> Any:
    if isinstance(where, int):
        return texts[where].text
    if kind == "loglikelihood_rolling":
        return sum(totals[where.start : where.stop])
    return totals[where.start], are_greedy[where.start]
