"""Generates greedily with a resident vLLM engine whose weights are replaced in place.

The only door to vllm. Candidates are still built into the live Hugging Face model, which scores
likelihoods; the engine stands beside it and only generates, which it does faster (a request for
log-probabilities does without vLLM's prefix cache). Before every call the live weights are handed
over by vLLM's own `reload_weights`, and its prefix cache, which has keys and values of the previous
weights, is reset. A head tied to the embedding is untied in the engine, because vLLM 0.32 reloads
the embedding and leaves the head as it was.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.generation.decode import Answer, cut
from evomerge.evaluate.token_requests import Prompt, end_tokens

# Options that evomerge itself decides; any other may be set in `engine_options`.
OURS = (
    *("model", "dtype", "seed", "tokenizer", "trust_remote_code", "skip_tokenizer_init"),
    *("load_format", "hf_overrides"),
)


class VllmDecoder:
    """Continues prompts as `decode.Decoder` does, with vLLM.

    Args:
        model: The live model; its parameters are handed to the engine before every call.
        tokenizer: Its tokenizer.
        folder: A model folder of the same architecture, which the engine starts from.
        options: Passed on to `vllm.LLM`, such as ``gpu_memory_utilization`` or ``max_model_len``.
        stored: Gives the live weights under the names that a checkpoint has, which the engine
            reads; the default gives the live names.

    Attributes:
        name: The engine, its version and options (`engine_name`).

    Raises:
        UserError: vLLM is not installed, does not take an option or cannot run the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        folder: Path,
        options: Mapping[str, Any],
        stored: Callable[[], Mapping[str, torch.Tensor]] | None = None,
    ):
        if model.config.get_text_config(decoder=True) is not model.config:
            raise UserError(
                f"evaluate.engine: vllm is for plain language models here, and {folder} reads "
                "images or audio besides: leave engine out"
            )
        taken = sorted(set(options) & set(OURS))
        if taken:
            raise UserError(
                f"evaluate.engine_options: {taken[0]} is not an option here: the study decides it"
            )
        self.name = engine_name(options)
        self._model = model
        self._stored = stored or (lambda: dict(model.named_parameters()))
        self._tokenizer = tokenizer
        self._ends = end_tokens(model, tokenizer)
        # In this process, so that weights are handed over by reference.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm

        self._vllm = vllm
        dtype = str(model.dtype).removeprefix("torch.")
        try:
            self._engine = vllm.LLM(
                str(folder),
                dtype=dtype,
                seed=0,
                load_format="dummy",  # weights are handed over before the first answer
                hf_overrides={"tie_word_embeddings": False},
                **options,
            )
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"evaluate.engine: vLLM cannot run {folder}: {reason}") from error

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Continue every prompt with the live model's weights as they are now."""
        if not prompts:
            return []
        self._hand_over()
        inputs = [
            self._vllm.TokensPrompt(prompt_token_ids=list(prompt.tokens)) for prompt in prompts
        ]
        settings = [self._settings(prompt) for prompt in prompts]
        replies = self._engine.generate(inputs, settings, use_tqdm=False)
        return [
            self._answer(prompt, reply.outputs[0])
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def _hand_over(self) -> None:
        weights = [(name, tensor.detach()) for name, tensor in self._stored().items()]
        head = self._model.get_output_embeddings()
        if not any(name == "lm_head.weight" for name, _ in weights) and head is not None:
            weights.append(("lm_head.weight", head.weight.detach()))
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache, whose content is stale")

    def _settings(self, prompt: Prompt) -> Any:
        special = set(self._tokenizer.all_special_tokens) & set(prompt.stops)
        ends = {*self._ends, *self._tokenizer.convert_tokens_to_ids(sorted(special))}
        return self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=prompt.max_tokens,
            stop=list(prompt.stops) or None,
            stop_token_ids=sorted(ends),
        )

    def _answer(self, prompt: Prompt, output: Any) -> Answer:
        text = str(self._tokenizer.decode(list(output.token_ids), skip_special_tokens=True))
        text, stopped = cut(text, prompt.stops)
        written = list(output.token_ids)
        tokens = len(written) - (written[-1:] != [] and written[-1] in self._ends)
        truncated = output.finish_reason == "length" and not stopped
        return Answer(text, truncated=truncated, tokens=tokens)


def engine_name(options: Mapping[str, Any]) -> str:
    """Name the engine in the evaluation protocol, by its version and options; starts nothing.

    The version is that of whichever distribution brings vLLM: there is one per kind of device.

    Raises:
        UserError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "evaluate.engine: vLLM is not installed here: pip install 'evomerge[vllm]', or "
            "leave engine out"
        )
    release = version(packages_distributions()["vllm"][0])
    return f"vllm {release} {dict(sorted(options.items()))}"
