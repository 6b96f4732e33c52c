"""Loads the resident model, a Hugging Face causal LM whose weights are replaced in place."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import HF_MODULES_CACHE

from evomerge.checkpoint.architecture import within_layer
from evomerge.checkpoint.files.companions import GENERATION
from evomerge.checkpoint.files.folder import read_config
from evomerge.checkpoint.files.remote_code import allowance_hint, named_code
from evomerge.checkpoint.sandbox.client import check_settings
from evomerge.core.errors import UserError
from evomerge.evaluate.routed.modeling_routed import routed_model
from evomerge.evaluate.spread import device_map, dispatched, without_weights


def load_model(
    source: str | Path | PretrainedConfig,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | Sequence[str] = "cpu",
    trust_remote_code: bool = False,
    *,
    memory: Mapping[str, torch.Tensor] | None = None,
    drawn: bool = False,
    empty: bool = False,
) -> tuple[Any, Any]:
    """Load a causal LM for scoring: eval mode, no gradients, no progress bars.

    Args:
        source: A model folder (or a name in the local hub cache). A folder with a config but no
            weights, or a config itself, gives a model whose weights are arbitrary until they are
            written in place.
        dtype: Type of the weights, or its name (``"bfloat16"``); ``"auto"`` keeps the checkpoint's.
        device: Where the model lives; several names spread its layers over them (`device_map`).
        trust_remote_code: Whether Python in the folder may run; see
            `checkpoint.files.remote_code`.
        memory: Weights of other models by name, on that device: those of a model that is made of a
            config share their memory, where the shapes are equal.
        drawn: Whether the weights of such a model are drawn as for training, rather than arbitrary.
        empty: Whether it gets no weights: parameters are NaN without memory (`streamed.Streamed`
            gives them theirs), buffers what they should be.

    Raises:
        UserError: The folder holds no model, or one whose tensors are not those of its config.

    Returns:
        The model, and its tokenizer (``None`` where the source has no tokenizer files).
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = _dtype(dtype)
    devices = [str(device)] if isinstance(device, str | torch.device) else list(device)
    if isinstance(source, PretrainedConfig):
        if empty:
            return _for_scoring(_empty(source, dtype, devices[0], trust_remote_code), devices), None
        model = _from_config(source, dtype, trust_remote_code, drawn)
        _share(model, memory or {})
        return _for_scoring(model, devices), None
    folder = Path(source)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"expected a model folder with a config.json, but '{folder}' has none")
    if folder.exists():
        read_config(folder)  # before transformers acts on it
    try:
        with _one_at_a_time(trust_remote_code):
            if empty:
                config = _config(source, trust_remote_code)
                model = _empty(config, dtype, devices[0], trust_remote_code)
                model.generation_config = _generation(folder, model)
            elif folder.is_dir() and not any(folder.glob("*.safetensors")):
                _refuse_other_weights(folder)
                model = _from_config(_config(source, trust_remote_code), dtype, trust_remote_code)
            else:
                load: Any = _auto_class(source, trust_remote_code).from_pretrained
                model, loading = load(
                    source,
                    dtype=dtype,
                    use_safetensors=True,
                    trust_remote_code=trust_remote_code,
                    device_map=_device_map(source, dtype, devices, trust_remote_code),
                    output_loading_info=True,
                )
                _refuse_gaps(source, loading)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{source}': {_why(error, folder)}") from error
    return _for_scoring(model, devices), load_tokenizer(source, trust_remote_code)


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model folder; ``None`` if it has no tokenizer files."""
    folder = Path(source)
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        return None
    if folder.is_dir():
        check_settings(folder)
    try:
        with _one_at_a_time(trust_remote_code):
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load the tokenizer of '{source}': {_why(error, folder)}"
        ) from error


def cache_argument(model: Any) -> str | None:
    """Return the name under which a model takes keys and values; ``None`` if it takes none.

    transformers calls it ``cache`` from 5.24 on, and ``past_key_values`` before.
    """
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in accepted), None)


def untie(model: Any) -> None:
    """Give a model's head weights of its own, in place, so that others than the base's fit in."""
    for target, source in dict(model.all_tied_weights_keys or {}).items():
        path, _, name = target.rpartition(".")
        weight = model.get_parameter(source).detach()
        weight = weight.clone() if weight.is_contiguous() else weight[...]  # an empty one has none
        setattr(model.get_submodule(path), name, torch.nn.Parameter(weight, requires_grad=False))
    model.all_tied_weights_keys = {}
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = False


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether transformers loads a config as a causal LM, as the stock lm_eval command does.

    It does not where the language model is a part of one that also reads images or sounds.
    """
    written = getattr(config, "auto_map", None) or {}
    return "AutoModelForCausalLM" in written or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING


@contextmanager
def _one_at_a_time(trust_remote_code: bool) -> Iterator[None]:
    """Wait for other processes: transformers copies a model's Python files one by one."""
    if not trust_remote_code:
        yield
        return
    import fcntl  # POSIX only, as in study/journal/lock.py

    cache = Path(HF_MODULES_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".evomerge.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _config(source: str | Path, trust_remote_code: bool) -> PretrainedConfig:
    made: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    return made


def _from_config(
    config: PretrainedConfig,
    dtype: torch.dtype | str,
    trust_remote_code: bool,
    drawn: bool = False,
) -> Any:
    chosen = {} if isinstance(dtype, str) else {"dtype": dtype}
    build: Any = _auto_class(config, trust_remote_code).from_config
    # Random initialisation is wasted on weights that are written over, and would draw from the
    # global generators; buffers (rotary tables) still get their true values.
    with nullcontext() if drawn else no_init_weights(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if getattr(config, "routed", None) is not None:
            return routed_model((config.architectures or [""])[0])._from_config(config, **chosen)
        return build(config, trust_remote_code=trust_remote_code, **chosen)


def _empty(
    config: PretrainedConfig, dtype: torch.dtype | str, device: str, trust_remote_code: bool
) -> Any:
    """Return a model whose parameters are NaN, of their shapes, on a device, without memory."""
    with without_weights():
        model = _from_config(config, dtype, trust_remote_code)
    dtypes = model._get_dtype_plan(model.dtype)  # what stays in float32, as from_pretrained has it
    for name, parameter in list(model.named_parameters()):
        wider = (kept for part, kept in dtypes.items() if re.search(rf"\b{part}\b", name))
        value = torch.full((), math.nan, dtype=next(wider, parameter.dtype), device=device)
        path, _, last = name.rpartition(".")
        weight = torch.nn.Parameter(value.expand(parameter.shape), requires_grad=False)
        setattr(model.get_submodule(path), last, weight)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return model


def _generation(folder: Path, model: Any) -> Any:
    """Return the settings of generating that a folder has, else those of its config."""
    if not (folder / GENERATION).is_file():
        return model.generation_config
    return GenerationConfig.from_pretrained(folder)


def _share(model: torch.nn.Module, memory: Mapping[str, torch.Tensor]) -> None:
    """Put a model's weights into the memory of others; deeper layers get the dtypes of those."""
    dtypes = {within_layer(name): tensor.dtype for name, tensor in memory.items()}
    for name, parameter in list(model.named_parameters()):
        data = memory.get(name)
        if data is None or data.shape != parameter.shape:
            data = parameter.to(dtypes.get(within_layer(name), parameter.dtype))
        path, _, last = name.rpartition(".")
        weight = torch.nn.Parameter(data.detach(), requires_grad=False)
        setattr(model.get_submodule(path), last, weight)


def _auto_class(source: str | Path | PretrainedConfig, trust_remote_code: bool) -> Any:
    """Return the class that loads a language model, or one that reads images or audio besides."""
    config = source
    if not isinstance(config, PretrainedConfig):
        config = _config(config, trust_remote_code)
    if not is_causal(config) and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM  # which says so where it does not know the architecture


def _device_map(
    source: str | Path,
    dtype: torch.dtype | str,
    devices: Sequence[str],
    trust_remote_code: bool,
) -> dict[str, str] | None:
    """Assign parts to several devices before loading; to a single one the model moves whole."""
    if len(devices) == 1:
        return None
    with torch.device("meta"):
        model = _from_config(_config(source, trust_remote_code), dtype, trust_remote_code)
    model.tie_weights()  # a head that is the embedding goes where that goes
    return device_map(model, devices)


def _for_scoring(model: Any, devices: Sequence[str]) -> Any:
    if len(devices) == 1:
        model = model.to(devices[0])
    elif not hasattr(model, "hf_device_map"):
        model.tie_weights()
        model = dispatched(model, device_map(model, devices))
    model.tie_weights()
    model.requires_grad_(False)
    _keep_head_contiguous(model)
    return model.eval()


def _keep_head_contiguous(model: Any) -> None:
    """Make the head's input contiguous, as `hidden[:, -1:]` of a batch is not.

    Without gradients to compute, ATen turns a linear layer of such an input into one product per
    row, and copies the weight for each: 7 times the CPU time of generating with 49,152 tokens.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)


def _contiguous(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.contiguous() if isinstance(one, torch.Tensor) else one for one in arguments)


def _dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise UserError(
            f"expected a floating dtype such as bfloat16, float16 or float32, but got '{dtype}'"
        )
    return named


def _refuse_other_weights(folder: Path) -> None:
    others = sorted(path.name for path in folder.glob("*.bin"))
    others += sorted(path.name for path in folder.glob("*.pt*"))
    if others:
        raise UserError(
            f"expected safetensors weights, but '{folder}' only has {others[0]}; "
            "save the model again with safetensors"
        )


def _refuse_gaps(source: str | Path, loading: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other tensors than its config's: transformers would only warn."""
    missing, unexpected = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    if missing:
        raise UserError(
            f"{source}: expected the tensors that its config.json asks for, but {missing[0]} is "
            f"missing{_more(missing)}: it would get random values; save the model again with it, "
            "or correct config.json (tie_word_embeddings, num_hidden_layers)"
        )
    if unexpected:
        raise UserError(
            f"{source}: expected the tensors that its config.json asks for, but it also has "
            f"{unexpected[0]}{_more(unexpected)}, which would be dropped; save the model again "
            "without it, or correct config.json"
        )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _why(error: Exception, folder: Path) -> str:
    """Return the remedy where a model's own code was not allowed, else an error's first line."""
    if "trust_remote_code" in str(error) and folder.is_dir() and named_code(folder):
        return allowance_hint(folder)
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
