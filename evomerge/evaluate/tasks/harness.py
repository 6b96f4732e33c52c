"""The only door to lm-eval: tasks, their documents and requests built once, answers graded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.filters.selection import TakeFirstFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from evomerge.core.errors import UserError
from evomerge.evaluate.scoring.choice_table import METRICS as CHOICE_METRICS
from evomerge.evaluate.tasks.function_task import FunctionTask, load_function
from evomerge.evaluate.tasks.metric import choose_metric, value_of
from evomerge.evaluate.tasks.preparation import (
    Prepared,
    chat_renderer,
    named,
    prepare,
    set_fewshot,
    silence,
)
from evomerge.evaluate.tasks.protocol import document_key, protocol_digest, task_warnings
from evomerge.evaluate.tasks.request import Grade, Request, TaskRequest
from evomerge.evaluate.tasks.target import Choices, choices_of, golds_of
from evomerge.evaluate.tasks.task_files import check_folders, code_files
from evomerge.evaluate.tasks.task_index import refuse_code, resolves, unknown_task
from evomerge.evaluate.tasks.templates import SafeTemplates
from evomerge.evaluate.tasks.text_task import read_chunks, text_task

BUILT_IN = Path(lm_eval.__file__).parent.resolve()
INVALID = "[invalid]"  # what lm-eval's extraction filters answer when they find nothing


class Harness:
    """Prepared tasks: documents, prompts and requests, fixed for a whole study.

    Attributes:
        items: Document numbers of each task.
        item_keys: For each of them the hash of its content; equal documents have equal keys.
        metrics: The metric of each task.
        weights: The weight of each task in the objective.
        functions: The tasks that are a user's Python functions.
        code: SHA-256 of the Python files that tasks were allowed to run.
        digest: Hash of everything that decides a score besides the weights of the model.
        warnings: What the user should know before spending anything.
        errors: What the tasks' own code raised on (task, document), until somebody clears it.
    """

    def __init__(
        self,
        prepared: Mapping[str, Prepared],
        functions: Mapping[str, FunctionTask],
        digest: str,
        warnings: list[str],
    ) -> None:
        self._prepared = dict(prepared)
        self._choices: dict[tuple[str, int], Choices] = {}
        self.functions = dict(functions)
        self.digest = digest
        self.warnings = warnings
        self.code: dict[str, str] = {}
        self.errors: dict[tuple[str, int], str] = {}
        self.items = {name: list(task.documents) for name, task in prepared.items()}
        self.item_keys = {
            name: [document_key(document) for document in task.documents.values()]
            for name, task in prepared.items()
        }
        for name, function in functions.items():
            self.items[name] = list(range(function.n_items))
            self.item_keys[name] = [document_key([name, item]) for item in self.items[name]]
        both: dict[str, Prepared | FunctionTask] = {**prepared, **functions}
        self.metrics = {name: task.metric for name, task in both.items()}
        self.weights = {name: task.weight for name, task in both.items()}

    @classmethod
    def load(
        cls,
        tasks: Sequence[TaskRequest | str],
        include_path: Sequence[Path | str] = (),
        num_fewshot: int | None = None,
        apply_chat_template: bool = False,
        tokenizer: Any = None,
        allow_task_code: bool = False,
    ) -> Harness:
        """Load tasks and build every request, once.

        Args:
            tasks: What to score; plain strings are names.
            include_path: Folders of task YAML, searched before lm-eval's own tasks.
            num_fewshot: Examples in the prompt for tasks that do not fix it at 0.
            apply_chat_template: Render prompts with the tokenizer's chat template.
            tokenizer: Needed for the chat template; its identity goes into `digest`.
            allow_task_code: Whether tasks may run Python of their own.

        Raises:
            UserError: For unknown tasks, metrics and filters, for tasks without documents, for
                tasks that need code which was not allowed.
        """
        _quieten()
        folders = check_folders(include_path)
        requests = [TaskRequest(task) if isinstance(task, str) else task for task in tasks]
        if not requests:
            raise UserError("expected at least one task to score, but `tasks` is empty")
        if apply_chat_template and getattr(tokenizer, "chat_template", None) is None:
            raise UserError("`apply_chat_template` is set, but the tokenizer has no chat template")
        theirs = [task.name for task in requests if task.text is None and task.function is None]
        manager = _manager(theirs, folders) if theirs else None
        template = chat_renderer(tokenizer) if apply_chat_template else None
        prepared: dict[str, Prepared] = {}
        functions: dict[str, FunctionTask] = {}
        warnings: list[str] = []
        for request in requests:
            if request.function is not None:
                functions[request.name] = _function(request, allow_task_code)
                continue
            if request.text is None:
                assert manager is not None
                if not allow_task_code:
                    refuse_code(request.name, manager.task_index, BUILT_IN)
                loaded = _load(request.name, manager)
            else:
                loaded = {request.name: _text(request)}
            for name, task in loaded.items():
                if name in prepared:
                    raise UserError(f"task '{name}' is asked for twice (once in '{request.name}')")
                entry = manager.task_index.get(name) if manager and request.text is None else None
                source = entry.yaml_path if entry else request.text
                with named(name, source):
                    set_fewshot(task, request.num_fewshot, num_fewshot, DEFAULT_OTHER_SEED)
                    prepared[name] = prepare(
                        task,
                        choose_metric(name, task, request.metric, source),
                        request.weight / len(loaded),
                        source,
                        template,
                    )
                    if request.text is None:
                        warnings += task_warnings(name, task, source, BUILT_IN)
        code = code_files(folders) if allow_task_code else {}
        warnings += [
            f"allowed task code: {file}, SHA-256 {told[:16]}" for file, told in code.items()
        ]
        harness = cls(prepared, functions, "", warnings)
        harness.code = code
        harness.digest = protocol_digest(
            {name: (item.task, item.metric, item.instances) for name, item in prepared.items()},
            harness.item_keys,
            tokenizer,
            apply_chat_template,
            {name: function.digest for name, function in functions.items()},
        )
        harness.warnings += [
            f"task '{name}': its function gives one number, the same on searched and on held-out "
            "items: a verdict says nothing about new data there"
            for name, function in functions.items()
            if function.items is None
        ]
        return harness

    def describe(self) -> dict[str, Any]:
        """Everything a driver without lm-eval needs to know, ready for JSON."""
        return {
            "tasks": list(self.items),
            "output_types": {name: self.output_type(name) for name in self.items},
            "metrics": {
                name: {
                    "name": metric.name,
                    "filter": metric.filter,
                    "higher_is_better": metric.higher_is_better,
                }
                for name, metric in self.metrics.items()
            },
            "weights": self.weights,
            "num_fewshot": {
                name: item.task.config.num_fewshot for name, item in self._prepared.items()
            },
            "items": self.items,
            "item_keys": self.item_keys,
            "digest": self.digest,
            "warnings": self.warnings,
            "code": self.code,
        }

    def output_type(self, task: str) -> str:
        """lm-eval's kind of task, e.g. ``generate_until``; ``function`` for a user's function."""
        if task in self.functions:
            return "function"
        return str(self._prepared[task].task.OUTPUT_TYPE)

    def requests(self, task: str, doc_id: int) -> list[Request]:
        """What to ask the model about a document, in the order in which `grade` wants answers."""
        instances = self._prepared[task].instances[doc_id]
        return [Request(instance.request_type, instance.args) for instance in instances]

    def golds(self, task: str, doc_id: int) -> list[tuple[str, str]]:
        """(context, answer) of each right answer of a generation task, as its prompts render it."""
        item = self._prepared[task]
        context = item.instances[doc_id][0].args[0]
        return golds_of(item.task, item.documents[doc_id], context, item.chat)

    def choices(self, task: str, doc_id: int) -> Choices:
        """The right choices of a multiple-choice document, and how its metric normalises them."""
        item = self._prepared[task]
        if (task, doc_id) not in self._choices:
            found = choices_of(item.task, item.documents[doc_id], item.metric.name)
            self._choices[task, doc_id] = found
        return self._choices[task, doc_id]

    def chooses(self, task: str) -> bool:
        """Whether a task's metric is just whether the likeliest choice is the right one."""
        item = self._prepared[task]
        filters = [f for e in item.task._filters if e.name == item.metric.filter for f in e.filters]
        return (
            self.output_type(task) == "multiple_choice"
            and item.metric.name in CHOICE_METRICS
            and not callable(item.task.config.process_results)
            and type(item.task).process_results is ConfigurableTask.process_results
            and not item.task.multiple_target
            and [type(make()) for make in filters] == [TakeFirstFilter]
        )

    def grade(self, task: str, answers: Mapping[int, Sequence[Any]]) -> dict[int, Grade]:
        """Let the task grade answers.

        A document on which the task's own code raises gets no value, and a line in `errors`.

        Args:
            task: The task.
            answers: For each document one answer per request: a text, a log-likelihood, or a
                (log-likelihood, is_greedy) pair, as lm-eval's own models give them.
        """
        item = self._prepared[task]
        asked = []
        for doc_id, replies in answers.items():
            for instance, reply in zip(item.instances[doc_id], replies, strict=True):
                instance.resps = [reply] * (instance.repeats or 1)
                instance.filtered_resps = {}
                asked.append(instance)
        chosen = item.metric.filter
        ensembles = [ensemble for ensemble in item.task._filters if ensemble.name == chosen]
        grades = {}
        filtered = _applied(ensembles, asked)
        for doc_id in answers:
            instances = item.instances[doc_id]
            try:
                if not filtered:
                    for ensemble in ensembles:
                        ensemble.apply(instances)
                found = [instance.filtered_resps[chosen] for instance in instances]
                values = item.task.process_results(item.documents[doc_id], found)
                value = value_of(task, item.metric, values)
            except UserError:
                raise
            except Exception as error:  # whatever a filter or a metric makes of this answer
                self.errors[task, doc_id] = f"{type(error).__name__}: {error}"
                grades[doc_id] = Grade(None, extracted=False)
                continue
            grades[doc_id] = Grade(value, all(_found(answer) for answer in found))
        return grades


def stock_model(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's own wrapper around a live model: its encoding, and the path for what we lack."""
    _quieten()
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def rolling_windows(stock: Any, text: str) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) token windows that cover a text once, as lm-eval cuts them."""
    windows = lm_eval.utils.get_rolling_token_windows(
        token_list=stock.tok_encode(text),
        prefix_token=stock.prefix_token_id,
        max_seq_len=stock.max_length,
        context_len=1,
    )
    return [lm_eval.utils.make_disjoint_window(window) for window in windows]


def greedy_settings(stock: Any, settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int] | None:
    """(stop strings, most tokens) of a request that decodes greedily; ``None`` if it does not."""
    plain = normalize_gen_kwargs(dict(settings), stock.max_gen_toks)
    end = stock.tok_decode([stock.eot_token_id], skip_special_tokens=False)
    stops = handle_stop_sequences(plain.pop("until", None), eos=end)
    most = int(plain.pop("max_gen_toks"))
    if plain.pop("do_sample") or set(plain) - {"temperature", "top_p", "top_k"}:
        return None
    return tuple(stop for stop in stops if stop), most


def _quieten() -> None:
    """Keep lm-eval and datasets from writing to a worker's terminal."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def _manager(names: Sequence[str], folders: Sequence[Path]) -> TaskManager:
    """An index of tasks; lm-eval's own (seconds to read) only if a name needs them."""
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


def _text(request: TaskRequest) -> Any:
    assert request.text is not None
    chunks = read_chunks(request.text, request.chunk_bytes)
    documents = datasets.Dataset.from_list([{"text": chunk} for chunk in chunks])
    config = text_task(request.name, chunks)
    with named(request.name, request.text), silence():
        return ConfigurableTask(
            config={**config, "custom_dataset": lambda **_: {"test": documents}}
        )


def _function(request: TaskRequest, allow_task_code: bool) -> FunctionTask:
    assert request.function is not None
    if not allow_task_code:
        raise UserError(
            f"task '{request.name}' runs code of its own ({request.function}); read it, then allow "
            "it with `allow_task_code`"
        )
    return load_function(request.name, request.function, request.items, request.weight)


def _load(name: str, manager: TaskManager) -> dict[str, Any]:
    entry = manager.task_index[name]
    _sandbox_templates()
    with named(name, entry.yaml_path), silence():
        tasks = dict(manager.load([name])["tasks"])
    if not tasks:
        raise UserError(f"group '{name}' ({entry.yaml_path}) has no tasks")
    for task_name, task in tasks.items():
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"task '{task_name}' needs images or audio; evomerge scores text only")
    return tasks


def _sandbox_templates() -> None:
    if not isinstance(lm_eval.utils.env, SafeTemplates):
        lm_eval.utils.env = SafeTemplates(lm_eval.utils.env)


def _applied(ensembles: Sequence[Any], asked: Sequence[Any]) -> bool:
    """Whether filters went through all answers at once; one bad answer stops them for all."""
    try:
        for ensemble in ensembles:
            ensemble.apply(asked)
    except Exception:  # found out document by document, then
        return False
    return True


def _found(answer: Any) -> bool:
    return not (isinstance(answer, str) and answer.strip() in ("", INVALID))
