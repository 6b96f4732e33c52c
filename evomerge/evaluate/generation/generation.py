"""Answers generation requests: greedy ones in our own loop, the rest in lm-eval's."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.evaluate.generation.decode import Answer, Decoder, PromptBatch, can_decode
from evomerge.evaluate.generation.vllm import VllmDecoder
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.lm_eval_api import whole_answers
from evomerge.evaluate.tasks.request import Request
from evomerge.evaluate.token_requests import Pair, Prompt


@dataclass(frozen=True)
class Prompts:
    """Generation requests, shared out between our loop and lm-eval's.

    Attributes:
        requests: All of them, with their items.
        ours: The prompts that our loop continues.
        our_indices: The index of each of these in `requests`.
        their_indices: The indices of the others.
    """

    requests: tuple[tuple[Item, Request], ...]
    ours: tuple[Prompt, ...]
    our_indices: tuple[int, ...]
    their_indices: tuple[int, ...]


class TextGenerator:
    """Generates with the live model; nothing here remembers its weights.

    Args:
        stock: lm-eval's own model around the live one.
        encoder: Turns requests into prompts.
        decoder: Our loop, or a separate engine.
        check_logits: Raises `NonFiniteError` if the weights are broken; for loops that do not.

    Attributes:
        is_plain: Whether our loop may continue prompts of this model.
        seconds: Time spent here so far; the caller may reset it.
    """

    def __init__(
        self,
        stock: Any,
        encoder: Encoder,
        decoder: Decoder | VllmDecoder,
        check_logits: Callable[[Sequence[Pair]], object],
    ) -> None:
        self.is_plain = can_decode(stock.model) and stock.think_end_token is None
        self.seconds = 0.0
        self._stock = stock
        self._encoder = encoder
        self._decoder = decoder
        self._check_logits = check_logits

    def share_out(self, requests: Sequence[tuple[Item, Request]]) -> Prompts:
        """Decide which loop answers each request."""
        encoded = [self._encoder.prompt(*one) if self.is_plain else None for one in requests]
        ours = {index: prompt for index, prompt in enumerate(encoded) if prompt is not None}
        theirs = tuple(index for index, prompt in enumerate(encoded) if prompt is None)
        return Prompts(tuple(requests), tuple(ours.values()), tuple(ours), theirs)

    def batches(self, prompts: Prompts) -> tuple[Sequence[Prompt], list[PromptBatch], list[Any]]:
        """Return our prompts, their batches, and what else `batch_digest.composition` needs.

        lm-eval and an engine form their batches as they go: they are named, with their batch size.
        """
        ours = prompts.ours
        engine, batches = "", [PromptBatch((), list(range(len(ours))))]
        if isinstance(self._decoder, VllmDecoder):
            engine = self._decoder.name
        elif ours:
            batches = list(self._decoder.arrange(ours))
        theirs = [prompts.requests[index][0] for index in prompts.their_indices]
        return ours, batches, [engine, [int(self._stock.batch_size), theirs] if theirs else []]

    def __call__(self, prompts: Prompts) -> list[Answer]:
        """Return the answers, in the order of the requests.

        Raises:
            NonFiniteError: If the model's logits are NaN or infinite.
        """
        if prompts.ours and isinstance(self._decoder, VllmDecoder):
            self._check_logits([self._encoder.probe(*prompts.requests[prompts.our_indices[0]])])
        began = time.perf_counter()
        answers = dict(zip(prompts.our_indices, self._decoder(prompts.ours), strict=True))
        self.seconds += time.perf_counter() - began
        theirs = [prompts.requests[index] for index in prompts.their_indices]
        answers.update(zip(prompts.their_indices, self._stock_answers(theirs), strict=True))
        return [answers[index] for index in range(len(prompts.requests))]

    def _stock_answers(self, requests: Sequence[tuple[Item, Request]]) -> list[Answer]:
        if not requests:
            return []
        self._check_logits([self._encoder.probe(*one) for one in requests])
        began = time.perf_counter()
        # A task that samples draws from a generator of its own, the same one in every call.
        device = self._stock.model.device
        cuda = [device] if device.type == "cuda" else []
        quiet = contextlib.redirect_stdout(io.StringIO())
        with torch.random.fork_rng(devices=cuda), quiet, whole_answers():
            torch.manual_seed(0)
            plain = [request for _, request in requests]
            texts = self._stock.generate_until(plain, disable_tqdm=True)
        answers = []
        for text, request in zip(texts, plain, strict=True):
            whole = getattr(text, "whole", text)
            tokens = len(self._stock.tok_encode(whole, add_special_tokens=False))
            truncated = tokens >= self._encoder.max_tokens(request)
            answers.append(Answer(str(text), truncated, tokens))
        self.seconds += time.perf_counter() - began
        return answers
