"""Encodes requests to tokens, once, exactly as lm-eval's Hugging Face model would."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import greedy_settings, rolling_windows
from evomerge.evaluate.tasks.request import Request
from evomerge.evaluate.token_requests import Pair, Prompt, end_tokens


class Encoder:
    """Encodes requests with lm-eval's own methods and remembers the result."""

    def __init__(self, stock: Any, harness: Harness) -> None:
        self._stock = stock
        self._harness = harness
        self._golds: dict[Item, list[Pair]] = {}
        self._pairs: dict[Hashable, list[Pair]] = {}
        self._prompts: dict[Hashable, Prompt | None] = {}
        # A config may name an end that the vocabulary does not have: nobody can write it.
        size = stock.model.config.get_text_config(decoder=True).vocab_size
        self._ends = [end for end in end_tokens(stock.model, stock.tokenizer) if end < size]

    def pairs(self, item: Item, request: Request) -> list[Pair]:
        """Return the pairs of a log-likelihood request; a rolling one has a pair per window."""
        key = (item, request.kind, request.args)
        if key not in self._pairs:
            if request.kind == "loglikelihood_rolling":
                encoded = rolling_windows(self._stock, request.args[0])
            else:
                encoded = [self._encode(*request.args)]
            self._pairs[key] = [self._pair(item, *tokens) for tokens in encoded]
        return self._pairs[key]

    def golds(self, item: Item) -> list[Pair]:
        """Return a pair for each right answer of a generation item, with its possible endings."""
        if item not in self._golds:
            request = self._harness.requests(*item)[0]
            settings = greedy_settings(self._stock, request.args[1])
            stops = settings[0] if settings else ()
            self._golds[item] = [
                self._gold(item, context, answer, stops)
                for context, answer in self._harness.golds(*item)
            ]
        return self._golds[item]

    def right_texts(self, item: Item) -> list[str]:
        """Return the text of each right answer as a model that writes it would be read."""
        texts = []
        for pair in self.golds(item):
            text = str(self._stock.tok_decode(list(pair.continuation), skip_special_tokens=True))
            for stop in self.stops(self._harness.requests(*item)[0]):
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def prompt(self, item: Item, request: Request) -> Prompt | None:
        """Return the prompt of a generation request; ``None`` if it is more than greedy decoding.

        Raises:
            UserError: The prompt is empty, or the model has no room for it and its answer.
        """
        context, settings = request.args
        key = (item, context)
        if key not in self._prompts:
            greedy = greedy_settings(self._stock, settings)
            self._prompts[key] = None
            if greedy is not None and len(request.args) == 2:
                stops, max_tokens = greedy
                room = self._stock.max_length - max_tokens
                if room < 1:
                    raise UserError(
                        f"task '{item[0]}' generates up to {max_tokens} tokens, but the model's "
                        f"whole length is {self._stock.max_length}; lower its `max_gen_toks`"
                    )
                tokens = self._stock.tok_batch_encode([context])[0][0].tolist()[-room:]
                if not tokens:
                    raise UserError(f"task '{item[0]}': the prompt of document {item[1]} is empty")
                self._prompts[key] = Prompt(item, tuple(tokens), stops, max_tokens)
        return self._prompts[key]

    def probe(self, item: Item, request: Request) -> Pair:
        """Return the prompt of a generation request as a pair, to check the logits on it."""
        tokens = self._stock.tok_batch_encode([request.args[0]])[0][0].tolist()
        return self._pair(item, tokens, tokens[-1:])

    def written(self, item: Item, request: Request, text: str) -> Pair:
        """Return a generated answer as a pair; of an empty one, what its first token would be."""
        tokens, answer = self._encode(request.args[0], text) if text else ([], [])
        return self._pair(item, tokens, answer) if answer else self.probe(item, request)

    def max_tokens(self, request: Request) -> int:
        """Return the length of the longest answer that a generation request allows."""
        return self._limits(request)[1]

    def stops(self, request: Request) -> tuple[str, ...]:
        """Return the strings that end the answer to a generation request."""
        return self._limits(request)[0]

    def _limits(self, request: Request) -> tuple[tuple[str, ...], int]:
        settings = {**request.args[1], "do_sample": False, "temperature": 0.0}
        names = ("until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens")
        greedy = greedy_settings(self._stock, {k: v for k, v in settings.items() if k in names})
        return greedy or ((), int(self._stock.max_gen_toks))

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        stock = self._stock
        if context:
            context_tokens, tokens = stock._encode_pair(context, continuation)
            return list(context_tokens), list(tokens)
        tokens = list(stock.tok_encode(continuation, add_special_tokens=False))
        if tokens[:1] == [stock.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [stock.prefix_token_id], tokens

    def _pair(
        self, item: Item, context: list[int], continuation: list[int], ends: tuple[int, ...] = ()
    ) -> Pair:
        longest = self._stock.max_length
        if not context or not continuation or len(continuation) + bool(ends) > longest:
            raise UserError(
                f"task '{item[0]}', document {item[1]}: expected a context of at least 1 token and "
                f"an answer of 1 to {longest} tokens, "
                f"but they have {len(context)} and {len(continuation)}"
            )
        return Pair(item, tuple(context), tuple(continuation), ends)

    def _gold(self, item: Item, context: str, answer: str, stops: tuple[str, ...]) -> Pair:
        tokens, gold = self._encode(context, answer)
        ends = list(self._ends)
        for stop in stops:
            _, longer = self._encode(context, answer + stop)
            if longer[: len(gold)] == gold and len(longer) > len(gold):
                ends.append(longer[len(gold)])
        return self._pair(item, tokens, gold, tuple(dict.fromkeys(ends)))
