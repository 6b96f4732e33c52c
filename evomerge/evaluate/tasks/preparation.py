"""Prepares an lm-eval task: draws its examples, builds its prompts, names its mistakes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks.metric import Metric
from evomerge.evaluate.tasks.request import Prompting


@dataclass(frozen=True)
class Prepared:
    """A task with its documents and, for each, lm-eval's requests in the order of their idx.

    Documents with equal values in the field `cluster` belong together; ``None``: none do.
    """

    task: Any  # lm_eval.api.task.Task
    metric: Metric
    weight: float
    source: Path | None
    documents: dict[int, Any]
    instances: dict[int, list[Any]]  # lm_eval.api.instance.Instance, in the order of their idx
    chat: bool
    cluster: str | None


def prepare(
    task: Any,
    metric: Metric,
    weight: float,
    source: Path | None,
    renderer: ChatRenderer | None,
    prompting: Prompting,
    cluster: str | None = None,
) -> Prepared:
    """Build every request of an lm-eval task, once."""
    multiturn = prompting.fewshot_as_multiturn
    with silence():
        task.build_all_requests(
            system_instruction=prompting.system_instruction,
            apply_chat_template=renderer is not None,
            fewshot_as_multiturn=renderer is not None if multiturn is None else multiturn,
            chat_template=renderer,
        )
    documents = dict(task.doc_iterator())
    instances: dict[int, list[Any]] = {doc_id: [] for doc_id in documents}
    for instance in task.instances:
        instances[instance.doc_id].append(instance)
    for asked in instances.values():
        asked.sort(key=lambda instance: instance.idx)
    chat = renderer is not None
    return Prepared(task, metric, weight, source, documents, instances, chat, cluster)


def set_fewshot(task: Any, by_task: int | None, common: int | None, seed: int) -> None:
    """Set the number of examples by the rules of lm-eval's command line.

    Args:
        task: lm-eval's task.
        by_task: Examples that the study wants in this task; ``None`` leaves it to `common`.
        common: Examples in all tasks but those that fix 0; ``None`` leaves it to the task.
        seed: Seed for drawing examples.
    """
    fixed = task.get_config("num_fewshot")
    if by_task is not None:
        task.set_config(key="num_fewshot", value=by_task)
    elif common is not None and fixed != 0:
        task.set_config(key="num_fewshot", value=common)
    elif fixed is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


class ChatRenderer:
    """Renders messages with a tokenizer's chat template, as lm-eval's model does.

    Attributes:
        drops_system: Whether the template refused a system message, which was then left out.
    """

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
        self.drops_system = False
        self._tokenizer = tokenizer
        self._template_args = template_args

    def __call__(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt; without `add_generation_prompt` the last message goes on."""
        try:
            return self._render(messages, add_generation_prompt)
        except TemplateError:
            others = [message for message in messages if message["role"] != "system"]
            if len(others) == len(messages):
                raise
            self.drops_system = True
            return self._render(others, add_generation_prompt)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._template_args,
            )
        )


def chat_template_args(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lm-eval's model passes to the chat template, given its arguments."""
    thinking = model_args.get("enable_thinking")
    given = dict(model_args.get("chat_template_args") or {})
    return given if thinking is None else {**given, "enable_thinking": thinking}


@contextlib.contextmanager
def named(task: str, source: Path | None) -> Iterator[None]:
    """Turn any exception that a task file causes into one line that names the task and file."""
    try:
        yield
    except UserError:
        raise
    except SecurityError as error:
        raise UserError(f"task '{task}' ({source}): unsafe template: {error}") from error
    except StopIteration as error:  # datasets raises it on a file without a line
        raise UserError(
            f"task '{task}' ({source or 'inline'}) has no documents: its data file is empty"
        ) from error
    except Exception as error:  # a task file can fail in any way
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise UserError(
            f"task '{task}' ({source or 'inline'}) cannot be used: {type(error).__name__}: {reason}"
        ) from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Swallow progress bars and prints; a worker's stdout may be a protocol."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
