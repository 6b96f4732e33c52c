"""Runs several causal LMs as one whose next-token distribution is their mean.

A reference, not a rival: it takes the memory and the time of all its models, where a merge takes
one's. Of probabilities it is the mixture of the models; of logits, the normalized geometric mean of
their distributions, which is also what averaging weights comes to where models are nearly linear
(Wortsman 2022, https://arxiv.org/abs/2203.05482).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from evomerge.core.errors import UserError
from evomerge.evaluate.model import cache_argument
from evomerge.evaluate.outcomes import Mean


class Ensemble(torch.nn.Module):
    """Several models behind one forward pass; generates by the project's own greedy loop alone.

    Keys and values of all models lie in one cache, the layers of the first model first.

    Args:
        models: Causal LMs with one vocabulary, on one device.
        mean: Of ``probabilities`` or of ``logits``.

    Raises:
        UserError: There are fewer than two, or one of them takes no cache, or their vocabularies
            differ.
    """

    def __init__(self, models: Sequence[Any], mean: Mean) -> None:
        super().__init__()
        if len(models) < 2:
            raise UserError(f"an ensemble: expected two or more models, but got {len(models)}")
        texts = [model.config.get_text_config(decoder=True) for model in models]
        sizes = [int(text.vocab_size) for text in texts]
        if len(set(sizes)) > 1:
            raise UserError(f"an ensemble: expected one vocabulary, but the models have {sizes}")
        names = [cache_argument(model) for model in models]
        if None in names:
            kind = type(models[names.index(None)]).__name__
            raise UserError(f"an ensemble: {kind} takes no cache of keys and values")
        self.models, self._cache_names, self.mean = torch.nn.ModuleList(models), names, mean
        self.config = deepcopy(models[0].config)  # says lengths and vocabulary, not layers
        self.generation_config = models[0].generation_config
        self._layers = [0] * len(models)  # of each model's cache

    @property
    def device(self) -> torch.device:
        """Return the device of the models."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return what the first model computes in."""
        return next(self.parameters()).dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Return the logits of the mean distribution, float32, (rows, positions, vocabulary).

        Args:
            input_ids: Tokens, (rows, length).
            attention_mask: As the models take it.
            position_ids: The same.
            past_key_values: A cache; each model reads and grows its own layers of it.
            use_cache: Whether to grow it.
            logits_to_keep: Of how many last positions; 0: all.
        """
        before = [] if past_key_values is None else list(past_key_values.layers)
        begun = any(getattr(layer, "is_initialized", False) for layer in before)
        grown: list[Any] = []
        total: torch.Tensor | None = None
        model: Any
        for number, (model, name) in enumerate(zip(self.models, self._cache_names, strict=True)):
            cache: Any = None
            if past_key_values is not None:  # with windows, unless the caller's has none
                cache = DynamicCache(config=model.config) if before else DynamicCache()
                if begun:
                    cache.layers = before[len(grown) : len(grown) + self._layers[number]]
            logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **({} if cache is None else {str(name): cache}),
            ).logits.float()
            if cache is not None:
                self._layers[number] = len(cache.layers)
                grown += cache.layers
            if self.mean == "probabilities":
                logits = logits.log_softmax(-1)
                total = logits if total is None else torch.logaddexp(total, logits)
            else:
                total = logits if total is None else total + logits
        assert total is not None
        if past_key_values is not None:
            past_key_values.layers = grown
        count = len(self.models)
        total = total - math.log(count) if self.mean == "probabilities" else total / count
        return CausalLMOutputWithPast(logits=total)

    def get_output_embeddings(self) -> None:
        """Return nothing: there is no single head."""

    def tie_weights(self) -> None:
        """Do nothing: the models' weights are tied as they are."""
