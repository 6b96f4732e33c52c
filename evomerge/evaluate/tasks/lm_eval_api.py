"""Wraps what evomerge uses of lm-eval: its task index, tasks, model and rules for requests.

This is the only file that imports lm_eval.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.utils
from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.filters.selection import TakeFirstFilter
from lm_eval.models import huggingface
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager, _yaml_loader

from evomerge.core.errors import UserError
from evomerge.core.time_limit import time_limit
from evomerge.evaluate.tasks.no_code import no_code
from evomerge.evaluate.tasks.preference_task import preference_task, read_preferences
from evomerge.evaluate.tasks.preparation import named, silence
from evomerge.evaluate.tasks.request import TaskRequest
from evomerge.evaluate.tasks.task_index import resolves, unknown_task
from evomerge.evaluate.tasks.text_task import read_chunks, text_task

BUILT_IN = Path(lm_eval.__file__).parent.resolve()
FEWSHOT_SEED = DEFAULT_OTHER_SEED
TEMPLATE_SECONDS = 20.0  # a template that loops in loops would never end


class TimedTemplate(Template):
    """A template that must be rendered in seconds."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Return the text, or raise TimeoutError."""
        with time_limit(TEMPLATE_SECONDS, "rendering a template of one document"):
            return super().render(*args, **kwargs)


class SafeTemplates(SandboxedEnvironment):
    """A sandbox in place of the environment in which lm-eval renders task templates.

    lm-eval renders `doc_to_text` and its like in a plain Jinja environment, where a template can
    reach any Python object, and compiles the template anew for every document. Here templates can
    read documents and nothing else, and each is compiled once, which makes loading and grading
    several times faster.
    """

    template_class = TimedTemplate

    def __init__(self, plain: Environment) -> None:
        super().__init__(undefined=plain.undefined, keep_trailing_newline=True)
        self.filters.update(plain.filters)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """Return the compiled template of a source text."""
        if args or kwargs or not isinstance(source, str):
            return super().from_string(source, *args, **kwargs)
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source)
        return self._compiled[source]


def open_index(names: Sequence[str], folders: Sequence[Path]) -> TaskManager:
    """Index the tasks of these folders, and lm-eval's own (seconds to read) if a name needs them.

    Raises:
        UserError: A name is in neither.
    """
    include = [str(folder) for folder in folders]
    if folders:
        manager = TaskManager(include_path=include, include_defaults=False)
        if all(resolves(name, manager.task_index) for name in names):
            return manager
    manager = TaskManager(include_path=include or None)
    for name in names:
        if name not in manager.task_index:
            raise UserError(unknown_task(name, manager.task_index, folders))
    return manager


def load_tasks(name: str, manager: TaskManager, allow_code: bool) -> dict[str, Any]:
    """Load a task, or every task of a group or tag, by name.

    Args:
        name: In the manager's index.
        manager: lm-eval's.
        allow_code: Whether tasks other than lm-eval's own may run Python.

    Raises:
        UserError: There are none, one needs more than text, or one runs code that is not allowed.
    """
    entry = manager.task_index[name]
    is_built_in = entry.yaml_path is not None and BUILT_IN in entry.yaml_path.resolve().parents
    lock = no_code(_yaml_loader, BUILT_IN, metrics=is_built_in)
    if not isinstance(lm_eval.utils.env, SafeTemplates):
        lm_eval.utils.env = SafeTemplates(lm_eval.utils.env)
    guard = contextlib.nullcontext() if allow_code else lock
    with named(name, entry.yaml_path), silence(), guard:
        tasks = dict(manager.load([name])["tasks"])
    if not tasks:
        raise UserError(f"group '{name}' ({entry.yaml_path}) has no tasks")
    for task_name, task in tasks.items():
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"task '{task_name}' needs images or audio; evomerge scores text only")
        functions = getattr(task, "_metric_fn_list", {})
        missing = [metric for metric, function in functions.items() if function is None]
        if missing and not callable(task.config.process_results):
            raise UserError(
                f"task '{task_name}' ({entry.yaml_path}): expected metrics of lm-eval's own, but "
                f"got '{missing[0]}'; programs of the evaluate library need `allow_task_code`"
            )
    return tasks


def load_file(request: TaskRequest) -> Any:
    """Make lm-eval's task of a file: of a text, each chunk a document, or of preferences."""
    if request.preferences is not None:
        rows = read_preferences(request.preferences)
        settings = preference_task(request.name, len(rows))
        return _made(request.name, request.preferences, settings, rows)
    assert request.text is not None
    chunks = read_chunks(request.text, request.chunk_bytes)
    rows = [{"text": chunk} for chunk in chunks]
    return _made(request.name, request.text, text_task(request.name, chunks), rows)


def _made(name: str, file: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    documents = datasets.Dataset.from_list(rows)
    with named(name, file), silence():
        return ConfigurableTask(
            config={**config, "custom_dataset": lambda **_: {"test": documents}}
        )


def takes_first_choice(task: Any, metric_filter: str) -> bool:
    """Return whether a task reads its metric off its likeliest choice in lm-eval's plain way."""
    filters = [make for e in task._filters if e.name == metric_filter for make in e.filters]
    return (
        not callable(task.config.process_results)
        and type(task).process_results is ConfigurableTask.process_results
        and not task.multiple_target
        and [type(make()) for make in filters] == [TakeFirstFilter]
    )


def stock_model(
    model: Any, tokenizer: Any, batch_size: int, model_args: Mapping[str, Any] | None = None
) -> Any:
    """Wrap a live model in lm-eval's own class, whose encoding we use, and its loops if need be.

    Raises:
        UserError: lm-eval refuses the arguments.
    """
    quieten()
    given = dict(model_args or {})
    try:
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **given)
    except ValueError as error:
        if not given:
            raise
        raise UserError(f"evaluate.model_args: lm_eval refuses {given}: {error}") from None


def rolling_windows(stock: Any, text: str) -> list[tuple[list[int], list[int]]]:
    """Cut a text into (context, continuation) token windows that cover it once, as lm-eval does."""
    windows = lm_eval.utils.get_rolling_token_windows(
        token_list=stock.tok_encode(text),
        prefix_token=stock.prefix_token_id,
        max_seq_len=stock.max_length,
        context_len=1,
    )
    return [lm_eval.utils.make_disjoint_window(window) for window in windows]


def greedy_settings(stock: Any, settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int] | None:
    """Return (stop strings, most tokens) of a request; ``None`` if it does not decode greedily."""
    plain = normalize_gen_kwargs(dict(settings), stock.max_gen_toks)
    end = stock.tok_decode([stock.eot_token_id], skip_special_tokens=False)
    stops = handle_stop_sequences(plain.pop("until", None), eos=end)
    max_tokens = int(plain.pop("max_gen_toks"))
    if plain.pop("do_sample") or set(plain) - {"temperature", "top_p", "top_k"}:
        return None
    return tuple(stop for stop in stops if stop), max_tokens


class AnswerText(str):
    """An answer that remembers what the model wrote before it: its thinking, and the answer.

    Attributes:
        whole: Both.
    """

    whole: str


@contextlib.contextmanager
def whole_answers() -> Iterator[None]:
    """Have lm-eval's loop return each answer as an `AnswerText`, while this is open.

    lm-eval drops a model's thinking as soon as it is decoded; its length is part of what an answer
    takes.
    """
    post_process = huggingface.postprocess_generated_text

    def remembered(generation: str, stop: Any, think_end_token: str | None) -> str:
        answer = AnswerText(post_process(generation, stop, think_end_token))
        end = generation.rfind(think_end_token) if think_end_token else -1
        thinking = generation[: end + len(think_end_token or "")] if end >= 0 else ""
        answer.whole = thinking + answer
        return answer

    huggingface.postprocess_generated_text = remembered
    try:
        yield
    finally:
        huggingface.postprocess_generated_text = post_process


def is_sampled(settings: Mapping[str, Any]) -> bool:
    """Return whether a request's answer is drawn at random."""
    return bool(normalize_gen_kwargs(dict(settings), 1)["do_sample"])


def samples(task: Any) -> bool:
    """Return whether a task's answers are drawn at random."""
    return task.OUTPUT_TYPE == "generate_until" and is_sampled(task.config.generation_kwargs or {})


def quieten() -> None:
    """Keep lm-eval and datasets from writing to a worker's terminal."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
