"""Decides under whose config and tokenizer a candidate is scored: those that its export gets.

The live model has the base's. A parent that computes or tokenizes in another way is no parent any
more in it, so it is scored in a model of its own, as the stock command would score its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files.companions import GENERATION
from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.loaded.config import differences
from evomerge.checkpoint.names import parts_of
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_tokenizer
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig

if TYPE_CHECKING:
    from evomerge.study.workers.evaluator import Evaluator

# Blanks, digits, other scripts, ends of sentences: where settings of tokenizers show.
_PROBES = (
    "Hello, world! It's 12345.",
    " a  b\n\n  c\t",
    "Ärger über 中文 и 🙂",
    "<s>[INST] x </s><|im_start|>user\ny<|im_end|><eos>",
    "",
)
_SAYS_NOTHING = ("transformers_version", "_from_model_config", "_commit_hash")
_SHOWN = 6


class Names(NamedTuple):
    """The models whose config and whose tokenizer a candidate is scored under."""

    config: str
    tokenizer: str


class OwnModels:
    """Compares parents with the base, and keeps the model of one that differs."""

    def __init__(self, config: StudyConfig, checkpoints: Mapping[str, Checkpoint]):
        self._base = config.base_model
        self._checkpoints = checkpoints
        self._chat = config.evaluate.apply_chat_template
        self._alike: dict[str, tuple[list[str], bool]] = {}
        self._other: tuple[Names, Evaluator] | None = None

    def evaluator_for(self, recipe: Recipe, evaluator: Evaluator) -> Evaluator | None:
        """The evaluator whose live model has a candidate's config; ``None`` if it is this one.

        There is one at a time: a model is freed before the next one is loaded.

        Raises:
            UserError: The study generates with vLLM, which runs one config.
        """
        names = self.names_for(recipe)
        if names in (
            (self._base, self._base),
            (evaluator.config.base_model, evaluator.tokenizer_of),
        ):
            return None
        if evaluator.config.evaluate.engine == "vllm":
            raise UserError(
                f"evaluate.engine: {names.config} and the base differ in config or tokenizer, and "
                "vLLM runs one of them; leave engine out, or that model"
            )
        if self._other is None or self._other[0] != names:
            self._other = None
            config = replace(evaluator.config, base_model=names.config, trust_remote_code=None)
            self._other = names, type(evaluator)(config, evaluator, names.tokenizer)
        return self._other[1]

    def names_for(self, recipe: Recipe) -> Names:
        """The base twice, where that is what the candidate's export would compute."""
        config, tokenizer = (
            name if name in self._checkpoints else self._base  # a merge has that of its base
            for name in (recipe.config_donor, recipe.donor)
        )
        return Names(
            config if self._compared(config)[0] else self._base,
            self._base if self._compared(tokenizer)[1] else tokenizer,
        )

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that users should know of how parents are scored."""
        sentences = self._unused_templates() if self._chat else []
        for model in self._checkpoints:
            lines, same_tokenizer = self._compared(model)
            keys = [*lines[:_SHOWN], *([] if same_tokenizer else ["its tokenizer's settings"])]
            if keys:
                more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
                sentences.append(
                    f"{model} differs from the base in {', '.join(keys)}{more}: it is scored under "
                    "its own config and tokenizer, in a model of its own; every merge gets the "
                    "base's (`config: MODEL` in the space chooses another)"
                )
        return sentences

    def _unused_templates(self) -> list[str]:
        """A sentence for each adapter with a chat template that is not the one it is asked by."""
        sentences = []
        for model, checkpoint in self._checkpoints.items():
            for adapter in parts_of(model)[1:]:
                theirs = _template(resolve(adapter))
                if theirs is not None and theirs != _template(checkpoint.folder):
                    sentences.append(
                        f"{adapter} has a chat template of its own, which nobody reads: the model "
                        f"under it is asked by that of {checkpoint.folder}, as lm_eval does; copy "
                        "the template there, if the adapter was trained on it"
                    )
        return sentences

    def _compared(self, model: str) -> tuple[list[str], bool]:
        """Keys of the config that differ from the base's, and whether the tokenizers agree."""
        if model == self._base:
            return [], True
        if model not in self._alike:
            ours, theirs = self._checkpoints[self._base], self._checkpoints[model]
            lines = differences(ours.config, theirs.config)
            if _generation(ours) != _generation(theirs):
                lines.append(GENERATION)
            self._alike[model] = lines, self._same_tokenizer(ours, theirs)
        return self._alike[model]

    def _same_tokenizer(self, ours: Checkpoint, theirs: Checkpoint) -> bool:
        if _files(ours) == _files(theirs):
            return True
        mine, other = (_behaviour(one.folder, self._chat) for one in (ours, theirs))
        return bool(mine == other)


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    folder = checkpoint.folder
    return {str(f.relative_to(folder)): f.read_bytes() for f in checkpoint.tokenizer_files()}


def _behaviour(folder: Path, chat: bool) -> Any:
    """Tokenize the probing texts; ``None`` without a tokenizer."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        return None
    return (
        [
            tokenizer.encode(text, add_special_tokens=special)
            for text in _PROBES
            for special in (False, True)
        ],
        [tokenizer.bos_token_id, tokenizer.eos_token_id, sorted(tokenizer.all_special_ids)],
        tokenizer.chat_template if chat else None,
    )


def _template(folder: Path) -> Any:
    """The chat template in a folder's files, as transformers finds it; ``None`` without one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    document = read_json(settings) if settings.is_file() else None
    return document.get("chat_template") if isinstance(document, dict) else None


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of generating, in a file of their own or in the config."""
    file = checkpoint.folder / GENERATION
    settings = read_json(file) if file.is_file() else None
    if not isinstance(settings, dict):
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {key: checkpoint.config[key] for key in keys if key in checkpoint.config}
    return {key: value for key, value in settings.items() if key not in _SAYS_NOTHING}
