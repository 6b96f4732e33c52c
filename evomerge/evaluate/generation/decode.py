"""Generates greedily on the resident model: one loop for all tasks, stop strings for each row.

It gives the text of lm-eval's `generate_until`, sooner: rows of different tasks share a batch, rows
that are done leave it, and nothing is decoded to text unless a token could end a stop string.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from evomerge.evaluate.likelihood.attention import growing_cache, prefix_cache
from evomerge.evaluate.likelihood.packing import shared_prefixes
from evomerge.evaluate.model import cache_argument
from evomerge.evaluate.outcomes import NonFiniteError
from evomerge.evaluate.token_requests import Prompt, Tokens, end_tokens

# Generation settings that change greedy decoding, with the value that leaves it alone.
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
}
FORBIDDEN = (
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "watermarking_config",
    "penalty_alpha",
    "dola_layers",
    "prompt_lookup_num_tokens",
    "stop_strings",
)

# A step of decoding costs the same for few rows as for many: short rows share a larger batch.
ROW_TOKENS = 256


class PromptBatch(NamedTuple):
    """A batch of prompts by number, and the tokens that all of them begin with."""

    prefix: Tokens
    numbers: list[int]


@dataclass(frozen=True)
class Answer:
    """A generated text.

    Attributes:
        text: The answer, as the task sees it.
        truncated: Whether it ran into `max_tokens` without a stop.
        tokens: How many the model wrote, its thinking included, the token that ended it not. Where
            lm-eval's loop wrote, they are counted again from the text.
    """

    text: str
    truncated: bool
    tokens: int


def can_decode(model: Any) -> bool:
    """Return whether greedy decoding of this model is the plain loop that `Decoder` runs."""
    settings = model.generation_config
    accepted = inspect.signature(model.forward).parameters
    plain = all(getattr(settings, name, None) in (None, value) for name, value in NEUTRAL.items())
    return (
        plain
        and all(getattr(settings, name, None) is None for name in FORBIDDEN)
        and cache_argument(model) is not None
        and {"attention_mask", "position_ids"} <= set(accepted)
        and not getattr(model, "_is_stateful", False)
        and not getattr(model.config, "is_encoder_decoder", False)
    )


class Decoder:
    """Greedy decoding with a key-value cache; examples that prompts share are read once.

    Attributes:
        max_packed_length: Longest row that may share a prefix (`attention.max_packed_length`).
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, max_packed_length: int = 0
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_packed_length = max_packed_length
        self._ends = end_tokens(model, tokenizer)
        self._special = set(tokenizer.all_special_tokens)
        self._texts: dict[int, str] = {}
        self._cache_argument = cache_argument(model) or ""
        self._is_spread = hasattr(model, "hf_device_map")

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Continue every prompt; batches depend on which prompts there are, not on their order.

        Raises:
            NonFiniteError: If the logits of an unfinished row are NaN or infinite.
        """
        answers: dict[int, Answer] = {}
        current: tuple[Tokens, Any] = ((), None)
        with torch.inference_mode():
            for prefix, numbers in self.arrange(prompts):
                if prefix != current[0]:
                    tokens = torch.tensor(prefix).to(self.model.device)
                    current = prefix, prefix_cache(self.model, tokens) if prefix else None
                batch = [prompts[number] for number in numbers]
                written = self._continue(batch, len(prefix), current[1])
                answers.update(zip(numbers, written, strict=True))
        return [answers[number] for number in range(len(prompts))]

    def arrange(self, prompts: Sequence[Prompt]) -> Iterator[PromptBatch]:
        """Batch prompts that begin with the same prefix, the longest first."""
        prefixes = shared_prefixes(
            prompt.tokens
            for prompt in prompts
            if len(prompt.tokens) + prompt.max_tokens <= self.max_packed_length
        )
        sharing: dict[Tokens, list[int]] = {}
        for number, prompt in enumerate(prompts):
            sharing.setdefault(prefixes.get(prompt.tokens, ()), []).append(number)
        for prefix in sorted(sharing):
            order = sorted(
                sharing[prefix],
                key=lambda i: (-len(prompts[i].tokens), prompts[i].tokens, prompts[i].owner),
            )
            while order:
                longest = len(prompts[order[0]].tokens) + prompts[order[0]].max_tokens
                rows = self.batch_size * max(1, ROW_TOKENS // longest)
                chosen, order = order[:rows], order[rows:]
                yield PromptBatch(prefix, chosen)

    def _continue(self, prompts: Sequence[Prompt], skip: int, prefix: Any) -> list[Answer]:
        """Continue one batch; the cache of its prompts' first `skip` tokens is `prefix`."""
        device = self.model.device
        length = len(prompts[0].tokens) - skip  # the longest: prompts come sorted
        gaps = [length + skip - len(prompt.tokens) for prompt in prompts]
        rows = [(0,) * gap + p.tokens[skip:] for gap, p in zip(gaps, prompts, strict=True)]
        inputs = torch.tensor(rows).to(device)
        padded = any(gaps)
        mask = positions = None
        if padded:
            offsets = torch.tensor(gaps, device=device).unsqueeze(1)
            columns = torch.arange(length, device=device).unsqueeze(0)
            mask = (columns >= offsets).long()  # (rows, length)
            mask = torch.cat((mask.new_ones(len(prompts), skip), mask), dim=1)
            positions = skip + (columns - offsets).clamp(min=0)
        written: list[list[int]] = [[] for _ in prompts]
        answers: list[Answer | None] = [None] * len(prompts)
        alive = list(range(len(prompts)))  # batch row -> prompt
        if prefix is None:
            cache = DynamicCache(config=self.model.config)
        else:
            cache = growing_cache(prefix, len(prompts))
        while True:
            logits = self.model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_argument: cache},
            ).logits[:, -1]
            best, chosen = logits.max(dim=-1)
            finite = torch.isfinite(best).tolist()
            tokens = chosen.tolist()
            for row, number in enumerate(alive):
                if answers[number] is None:
                    if not finite[row]:
                        raise NonFiniteError(*prompts[number].owner)
                    written[number].append(tokens[row])
                    answers[number] = self._finished(written[number], prompts[number])
            unfinished = [row for row, number in enumerate(alive) if answers[number] is None]
            if not unfinished:
                return [answer for answer in answers if answer is not None]
            inputs = chosen.unsqueeze(1)
            if mask is not None and positions is not None:
                mask = torch.cat((mask, mask.new_ones(len(alive), 1)), dim=1)
                positions = positions[:, -1:] + 1
            if 2 * len(unfinished) <= len(alive):  # the finished leave when they are half
                rows_left = torch.tensor(unfinished, device=device)
                # The cache of a spread model is on several devices; all take the CPU's indices.
                cache.batch_select_indices(rows_left.cpu() if self._is_spread else rows_left)
                inputs = inputs[rows_left]
                if mask is not None and positions is not None:
                    mask, positions = mask[rows_left], positions[rows_left]
                alive = [alive[row] for row in unfinished]

    def _finished(self, written: list[int], prompt: Prompt) -> Answer | None:
        """Return the answer, if the last token ended it."""
        last = written[-1]
        text = self._text(last)
        if last in self._ends or (text in self._special and text in prompt.stops):
            text = cut(self._decode(written), prompt.stops)[0]
            return Answer(text, truncated=False, tokens=len(written) - (last in self._ends))
        if self._may_stop(text, prompt.stops):
            answer, stopped = cut(self._decode(written), prompt.stops)
            if stopped:
                return Answer(answer, truncated=False, tokens=len(written))
        if len(written) >= prompt.max_tokens:
            text = cut(self._decode(written), prompt.stops)[0]
            return Answer(text, truncated=True, tokens=len(written))
        return None

    def _may_stop(self, text: str, stops: Sequence[str]) -> bool:
        # A stop string is completed by a token that holds its last character. A blank may be
        # dropped from a single token's text, and "\ufffd" is a character still incomplete.
        return "\ufffd" in text or any(stop[-1] in text or stop[-1] == " " for stop in stops)

    def _text(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self.tokenizer.decode([token])
        return text

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first stop string, and whether there was one."""
    whole = len(text)
    for stop in stops:
        text = text.split(stop)[0]
    return text, len(text) < whole
