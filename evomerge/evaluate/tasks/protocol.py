"""Hashes everything that decides a score besides the weights: prompts, metrics, versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evomerge.evaluate.tasks.metric import PER_LENGTH, Metric

# Raise it when the meaning of a score changes: outcomes of another scoring are not reused.
SCORING = 2
LOCAL_DATA = ("json", "csv", "text", "parquet", "arrow", "pandas", "xml")
PASSAGE, MOST_PER_PASSAGE = 60, 100  # characters; documents
# Prompts are hashed as they are built, documents by content; paths and comments decide nothing.
NOT_PROTOCOL = (
    "metadata",
    "dataset_path",
    "dataset_kwargs",
    "dataset_name",
    "custom_dataset",
    "tag",
    "task_alias",
)


def document_key(document: Any) -> str:
    """Hash a document's content: 16 hex digits of the SHA-256 of its canonical JSON.

    >>> document_key({"a": 1, "b": 2}) == document_key({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(_canonical(document).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Protocol:
    """Everything that decides scores besides the weights of the model.

    Attributes:
        tasks: For each task lm-eval's object, its metric, and its requests by document.
        item_keys: For each task the keys of its documents.
        tokenizer: The tokenizer, or ``None``.
        apply_chat_template: Whether prompts went through its chat template.
        functions: For each task that is a user's function the hash of its source.
        model_args: Settings of lm-eval's model.
        lengths: For each task that measures answers' lengths the task that they answer.
    """

    tasks: Mapping[str, tuple[Any, Metric, Mapping[int, Sequence[Any]]]]
    item_keys: Mapping[str, Sequence[str]]
    tokenizer: Any
    apply_chat_template: bool
    functions: Mapping[str, str]
    model_args: Mapping[str, Any]
    lengths: Mapping[str, str]

    def digest(self) -> str:
        """Hash the evaluation: equal digests and equal weights give equal outcomes."""
        digest = hashlib.sha256()
        functions = {n: [source, len(self.item_keys[n])] for n, source in self.functions.items()}
        header = {
            **self._settings(),
            "functions": functions,
            **({"lengths": dict(self.lengths)} if self.lengths else {}),
        }
        digest.update(_canonical(header).encode())
        for name, (_, _, instances) in self.tasks.items():
            digest.update(_canonical([*self._identity(name), list(self.item_keys[name])]).encode())
            for of_document in instances.values():
                for instance in of_document:
                    digest.update(_canonical(_asked(instance)).encode())
        return digest.hexdigest()

    def item_digests(self, also: Mapping[str, Any]) -> dict[str, list[str]]:
        """Hash what decides the score of each item, in the order of `item_keys`.

        Args:
            also: What else decides all of them.
        """
        settings = {**self._settings(), **also}
        digests = {}
        for name, (_, _, instances) in self.tasks.items():
            of_task = _sha256([settings, *self._identity(name)])
            items = zip(self.item_keys[name], instances.values(), strict=True)
            digests[name] = [_sha256([of_task, key, *map(_asked, asked)]) for key, asked in items]
        for name, source in self.functions.items():
            digests[name] = [_sha256([settings, source, key]) for key in self.item_keys[name]]
        for name, source in self.lengths.items():
            digests[name] = [_sha256(["length", asked]) for asked in digests[source]]
        return digests

    def _settings(self) -> dict[str, Any]:
        return {
            "scoring": SCORING,
            "lm_eval": version("lm_eval"),
            "tokenizer": tokenizer_identity(self.tokenizer),
            "chat": self.apply_chat_template,
            **({"model_args": dict(self.model_args)} if self.model_args else {}),
        }

    def _identity(self, name: str) -> list[Any]:
        """Return a task's name, settings and metric."""
        task, metric, _ = self.tasks[name]
        config = {k: v for k, v in task.dump_config().items() if k not in NOT_PROTOCOL}
        return [name, config, [metric.name, metric.filter]]


def _asked(instance: Any) -> list[Any]:
    return [instance.request_type, list(instance.args)]


def _sha256(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def tokenizer_identity(tokenizer: Any) -> str | None:
    """Hash a tokenizer's vocabulary, rules, special tokens and chat template."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    special = dict(tokenizer.special_tokens_map)
    if backend is not None:  # padding and truncation only remember the last call
        rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    special.pop("pad_token", None)  # set by whoever pads first; padding is never scored
    identity = [rules, special, getattr(tokenizer, "chat_template", None)]
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()


def task_warnings(name: str, task: Any, source: Path | None, built_in: Path) -> Iterable[str]:
    """Warn of properties of a task that matter before searching on it."""
    is_built_in = source is not None and built_in in source.resolve().parents
    path = getattr(task.config, "dataset_path", None)
    public = is_built_in or (
        path is not None and path not in LOCAL_DATA and not Path(path).exists()
    )
    if public and task.has_test_docs():
        yield (
            f"task '{name}' scores the test split of a public benchmark ({path}): a recipe "
            "searched on it has no honest score on it"
        )
    metrics = task.aggregation()
    if task.OUTPUT_TYPE == "loglikelihood_rolling" and any(m in PER_LENGTH for m in metrics):
        yield (
            f"task '{name}': documents count equally here; lm-eval weights them by length, so its "
            "number differs"
        )
    shots = getattr(task.config, "num_fewshot", None) or 0
    fewshot = getattr(task.config, "fewshot_config", None)
    scored = task.config.test_split or task.config.validation_split
    source = task.config.training_split or task.config.validation_split
    if shots > 0 and (task.config.fewshot_split or source or scored) == scored:
        yield (
            f"task '{name}' draws its examples from the very documents that it scores: held-out "
            "ones are seen, with their answers, while searching"
        )
    if shots > 0 and getattr(fewshot, "sampler", "default") != "first_n":
        yield (
            f"task '{name}' draws its {shots} examples at random, document after document: "
            "lm_eval with --samples draws others than lm_eval on the whole task does"
        )


def cluster_hints(name: str, documents: Sequence[Any]) -> Iterable[str]:
    """Warn of long texts that several documents share, each of them with others.

    Shared by all documents or by hundreds, a text is an instruction; shared by a few, a passage.
    """
    for field in documents[0] if isinstance(documents[0], Mapping) else ():
        texts = [document.get(field) for document in documents]
        if not all(isinstance(text, str) for text in texts):
            continue
        distinct, length = len(set(texts)), sum(map(len, texts)) / len(texts)
        if length >= PASSAGE and MOST_PER_PASSAGE * distinct >= len(texts) >= 2 * distinct >= 4:
            yield (
                f"task '{name}': its {len(texts):,} documents share {distinct:,} values of "
                f"'{field}'; if those with the same one belong together, set `cluster: {field}`: "
                "a verdict takes them for independent"
            )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
