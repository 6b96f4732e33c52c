"""Prepares an lm-eval task: draws its examples, builds its prompts, names its mistakes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import SecurityError

from evomerge.core.errors import UserError
from evomerge.evaluate.tasks.metric import Metric


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
    template: Callable[..., str] | None,
    cluster: str | None = None,
) -> Prepared:
    """Build every request of an lm-eval task, once."""
    with silence():
        task.build_all_requests(
            apply_chat_template=template is not None,
            fewshot_as_multiturn=template is not None,
            chat_template=template,
        )
    documents = dict(task.doc_iterator())
    instances: dict[int, list[Any]] = {doc_id: [] for doc_id in documents}
    for instance in task.instances:
        instances[instance.doc_id].append(instance)
    for asked in instances.values():
        asked.sort(key=lambda instance: instance.idx)
    chat = template is not None
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


def chat_renderer(tokenizer: Any) -> Callable[..., str]:
    """Return the function that lm-eval renders messages with: the tokenizer's chat template."""

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    return render


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
