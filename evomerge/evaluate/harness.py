"""The only door to lm-eval: tasks, their documents and requests built once, answers graded."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval.utils
from jinja2.exceptions import SecurityError
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from evomerge.errors import UserError
from evomerge.evaluate.metric import Metric, choose_metric, value_of
from evomerge.evaluate.protocol import document_key, protocol_digest, task_warnings
from evomerge.evaluate.request import Grade, Request, TaskRequest
from evomerge.evaluate.target import Choices, choices_of, golds_of
from evomerge.evaluate.task_files import check_folders
from evomerge.evaluate.task_index import refuse_code, resolves, unknown_task
from evomerge.evaluate.templates import SafeTemplates

BUILT_IN = Path(lm_eval.__file__).parent.resolve()
INVALID = "[invalid]"  # what lm-eval's extraction filters answer when they find nothing


@dataclass(frozen=True)
class _Prepared:
    task: Any  # lm_eval.api.task.Task
    metric: Metric
    weight: float
    source: Path | None
    documents: dict[int, Any]
    instances: dict[int, list[Any]]  # lm_eval.api.instance.Instance, in the order of their idx
    chat: bool


class Harness:
    """Prepared tasks: documents, prompts and requests, fixed for a whole study.

    Attributes:
        items: Document numbers of each task.
        item_keys: For each of them the hash of its content; equal documents have equal keys.
        metrics: The metric of each task.
        weights: The weight of each task in the objective.
        digest: Hash of everything that decides a score besides the weights of the model.
        warnings: What the user should know before spending anything.
    """

    def __init__(self, prepared: Mapping[str, _Prepared], digest: str, warnings: list[str]) -> None:
        self._prepared = dict(prepared)
        self.digest = digest
        self.warnings = warnings
        self.items = {name: list(task.documents) for name, task in prepared.items()}
        self.item_keys = {
            name: [document_key(document) for document in task.documents.values()]
            for name, task in prepared.items()
        }
        self.metrics = {name: task.metric for name, task in prepared.items()}
        self.weights = {name: task.weight for name, task in prepared.items()}

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
        manager = _manager([request.name for request in requests], folders)
        template = _chat_template(tokenizer) if apply_chat_template else None
        prepared: dict[str, _Prepared] = {}
        warnings: list[str] = []
        for request in requests:
            if not allow_task_code:
                refuse_code(request.name, manager.task_index, BUILT_IN)
            loaded = _load(request.name, manager)
            for name, task in loaded.items():
                if name in prepared:
                    raise UserError(f"task '{name}' is asked for twice (once in '{request.name}')")
                entry = manager.task_index.get(name)
                source = entry.yaml_path if entry else None
                with _named(name, source):
                    _set_fewshot(task, request.num_fewshot, num_fewshot)
                    prepared[name] = _prepare(
                        task,
                        choose_metric(name, task, request.metric, source),
                        request.weight / len(loaded),
                        source,
                        template,
                    )
                    warnings += task_warnings(name, task, source, BUILT_IN)
        harness = cls(prepared, "", warnings)
        harness.digest = protocol_digest(
            {name: (item.task, item.metric, item.instances) for name, item in prepared.items()},
            harness.item_keys,
            tokenizer,
            apply_chat_template,
        )
        harness.warnings += [
            f"task '{name}': no gold text to measure a likelihood of, so its smooth score is its "
            "metric"
            for name, item in prepared.items()
            if item.task.OUTPUT_TYPE == "generate_until"
            and not harness.golds(name, next(iter(item.documents)))
        ]
        return harness

    def describe(self) -> dict[str, Any]:
        """Everything a driver without lm-eval needs to know, ready for JSON."""
        return {
            "tasks": list(self._prepared),
            "output_types": {name: self.output_type(name) for name in self._prepared},
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
        }

    def output_type(self, task: str) -> str:
        """lm-eval's kind of task, e.g. ``multiple_choice`` or ``generate_until``."""
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
        return choices_of(item.task, item.documents[doc_id], item.metric.name)

    def grade(self, task: str, answers: Mapping[int, Sequence[Any]]) -> dict[int, Grade]:
        """Let the task grade answers.

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
        with _named(task, item.source):
            for ensemble in item.task._filters:
                if ensemble.name == chosen:
                    ensemble.apply(asked)
            grades = {}
            for doc_id in answers:
                found = [instance.filtered_resps[chosen] for instance in item.instances[doc_id]]
                values = item.task.process_results(item.documents[doc_id], found)
                value = value_of(task, item.metric, values)
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


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallow progress bars and prints; a worker's stdout may be a protocol."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _named(task: str, source: Path | None) -> Iterator[None]:
    """Turn whatever a task file's mistake raises into one line that names the task and file."""
    try:
        yield
    except UserError:
        raise
    except SecurityError as error:
        raise UserError(f"task '{task}' ({source}): unsafe template: {error}") from error
    except Exception as error:  # a task file can fail in any way; it is the user's in all of them
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise UserError(
            f"task '{task}' ({source or 'inline'}) cannot be used: {type(error).__name__}: {reason}"
        ) from error


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


def _load(name: str, manager: TaskManager) -> dict[str, Any]:
    entry = manager.task_index[name]
    _sandbox_templates()
    with _named(name, entry.yaml_path), _silence():
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


def _set_fewshot(task: Any, own: int | None, common: int | None) -> None:
    """As lm-eval's command line: a task that fixes 0 examples keeps it, unless asked by name."""
    fixed = task.get_config("num_fewshot")
    if own is not None:
        task.set_config(key="num_fewshot", value=own)
    elif common is not None and fixed != 0:
        task.set_config(key="num_fewshot", value=common)
    elif fixed is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _prepare(
    task: Any,
    metric: Metric,
    weight: float,
    source: Path | None,
    template: Callable[..., str] | None,
) -> _Prepared:
    with _silence():
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
    return _Prepared(task, metric, weight, source, documents, instances, template is not None)


def _chat_template(tokenizer: Any) -> Callable[..., str]:
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


def _found(answer: Any) -> bool:
    return not (isinstance(answer, str) and answer.strip() in ("", INVALID))
