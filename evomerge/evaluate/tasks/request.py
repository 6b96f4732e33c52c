"""Defines requests for tasks, requests to the model, and the grade of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.evaluate.tasks.text_task import CHUNK_BYTES


@dataclass(frozen=True)
class TaskRequest:
    """A task (or a group of tasks) that a study asks for.

    Attributes:
        name: An lm-eval task, tag or group; with `text` or `function`, the name of that task.
        metric: ``exact_match``, or ``exact_match,strict-match`` to name the filter too; ``None``
            is the task's first that can be read off one document.
        weight: Its weight in the objective; a group's is shared equally by its tasks.
        num_fewshot: Examples in the prompt; ``None`` leaves it to the study and the task.
        text: A text file whose bits per byte are the task (`text_task`).
        chunk_bytes: Size of a chunk of the text, which is one document of the task.
        preferences: A file of answers chosen and rejected (`preference_task`).
        function: A user's function that scores the model (`function_task`).
        tokens_of: Another task, the length of whose answers is the score (`length_task`).
        counts: ``layers`` or ``parameters``, the size of the model (`function_task.size_task`).
        items: Number of items that the function scores; ``None`` if it gives one number.
        bounds: The least and the greatest score of an item, as far as they are known.
        cluster: A field of the documents: those in which it is the same belong together.
    """

    name: str
    metric: str | None = None
    weight: float = 1.0
    num_fewshot: int | None = None
    text: Path | None = None
    chunk_bytes: int = CHUNK_BYTES
    preferences: Path | None = None
    function: str | None = None
    tokens_of: str | None = None
    counts: str | None = None
    items: int | None = None
    bounds: tuple[float, ...] | None = None
    cluster: str | None = None

    @property
    def file(self) -> Path | None:
        """The file that the task's documents are read from; ``None`` for lm-eval's own tasks."""
        return self.text or self.preferences


@dataclass(frozen=True)
class Prompting:
    """The options of lm_eval's command that decide what a task asks.

    Attributes:
        num_fewshot: Examples in the prompt for tasks that do not fix it at 0.
        fewshot_seed: Seed for drawing them; ``None`` is lm_eval's own.
        chat_tokenizer: Renders prompts with its chat template; ``None`` leaves them plain.
        chat_template_args: Passed to the template.
        system_instruction: Stands before every prompt.
        fewshot_as_multiturn: Whether examples are turns; ``None`` is yes with a chat template.
        gen_kwargs: Settings of generation over the task's own.
    """

    num_fewshot: int | None = None
    fewshot_seed: int | None = None
    chat_tokenizer: Any = None
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One request to the model: lm-eval's request type and its arguments."""

    kind: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Grade:
    """A document's metric value, and whether an answer was extracted from the generated text."""

    value: float | None
    extracted: bool
