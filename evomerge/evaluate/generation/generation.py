"""Answers to generation requests: by our own loop what decodes greedily, by lm-eval's the rest."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.evaluate.generation.decode import Answer, Arranged, Decoder, Prompt, can_decode
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.likelihood.likelihood import Pair
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.scoring.encode import Encoder
from evomerge.evaluate.tasks.request import Request


@dataclass(frozen=True)
class Prompts:
    """Generation requests, shared out between our loop and lm-eval's.

    Attributes:
        asked: All of them, with their items.
        ours: The prompts that our loop continues.
        places: Where each of these stands in `asked`.
        theirs: Where the others stand.
    """

    asked: tuple[tuple[Item, Request], ...]
    ours: tuple[Prompt, ...]
    places: tuple[int, ...]
    theirs: tuple[int, ...]


class Generation:
    """Generates with the live model; nothing here remembers its weights.

    Args:
        stock: lm-eval's own model around the live one.
        encoder: Turns requests into prompts.
        decoder: Our loop, or an engine beside the live model.
        look: Raises `NonFiniteError` if the weights are broken; for loops that do not tell.

    Attributes:
        is_plain: Whether our loop may continue prompts of this model.
        seconds: Time spent here so far; the caller may reset it.
    """

    def __init__(
        self,
        stock: Any,
        encoder: Encoder,
        decoder: Decoder | VllmDecoder,
        look: Callable[[Sequence[Pair]], None],
    ) -> None:
        self.is_plain = can_decode(stock.model)
        self.seconds = 0.0
        self._stock = stock
        self._encoder = encoder
        self._decoder = decoder
        self._look = look

    def share_out(self, asked: Sequence[tuple[Item, Request]]) -> Prompts:
        """Decide what answers each request."""
        encoded = [self._encoder.prompt(*one) if self.is_plain else None for one in asked]
        ours = {place: prompt for place, prompt in enumerate(encoded) if prompt is not None}
        theirs = tuple(place for place, prompt in enumerate(encoded) if prompt is None)
        return Prompts(tuple(asked), tuple(ours.values()), tuple(ours), theirs)

    def batches(self, prompts: Prompts) -> tuple[Sequence[Prompt], list[Arranged], list[Any]]:
        """Which prompts share a batch, for `composition`: prompts, their batches, what else tells.

        lm-eval and an engine form their batches as they go: they are told by name and size.
        """
        ours = prompts.ours
        told, arranged = "", [Arranged((), list(range(len(ours))))]
        if isinstance(self._decoder, VllmDecoder):
            told = self._decoder.name
        elif ours:
            arranged = list(self._decoder.arrange(ours))
        theirs = [prompts.asked[place][0] for place in prompts.theirs]
        return ours, arranged, [told, [int(self._stock.batch_size), theirs] if theirs else []]

    def __call__(self, prompts: Prompts) -> list[Answer]:
        """The answers, in the order in which they were asked.

        Raises:
            NonFiniteError: If the model's logits are NaN or infinite.
        """
        if prompts.ours and isinstance(self._decoder, VllmDecoder):
            self._look([self._encoder.probe(*prompts.asked[prompts.places[0]])])
        began = time.perf_counter()
        answers = dict(zip(prompts.places, self._decoder(prompts.ours), strict=True))
        self.seconds += time.perf_counter() - began
        theirs = [prompts.asked[place] for place in prompts.theirs]
        answers.update(zip(prompts.theirs, self._stock_answers(theirs), strict=True))
        return [answers[place] for place in range(len(prompts.asked))]

    def _stock_answers(self, asked: Sequence[tuple[Item, Request]]) -> list[Answer]:
        if not asked:
            return []
        self._look([self._encoder.probe(item, request) for item, request in asked])
        began = time.perf_counter()
        # A task that samples draws from a generator of its own, the same one in every call.
        device = self._stock.model.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(0)
            texts = self._stock.generate_until([request for _, request in asked], disable_tqdm=True)
        answers = []
        for text, (_, request) in zip(texts, asked, strict=True):
            most = self._encoder.most_tokens(request)
            written = self._stock.tok_encode(text, add_special_tokens=False)
            answers.append(Answer(text, truncated=len(written) >= most))
        self.seconds += time.perf_counter() - began
        return answers
