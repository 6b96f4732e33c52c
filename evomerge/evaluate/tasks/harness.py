"""Gives the documents and requests of prepared tasks, and grades answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.tasks.function_task import FunctionTask
from evomerge.evaluate.tasks.length_task import ANSWER_TOKENS, LengthTask
from evomerge.evaluate.tasks.lm_eval_api import samples, takes_first_choice
from evomerge.evaluate.tasks.loading import LoadedTasks, load
from evomerge.evaluate.tasks.metric import value_of
from evomerge.evaluate.tasks.preparation import Prepared, chat_template_args
from evomerge.evaluate.tasks.protocol import Protocol, document_key
from evomerge.evaluate.tasks.request import Grade, Prompting, Request, TaskRequest
from evomerge.evaluate.tasks.target import CHOICE_METRICS, Choices, choices_of, golds_of

INVALID = "[invalid]"  # lm-eval's extraction filters answer this when they find nothing


class Harness:
    """Prepared tasks: documents, prompts and requests, fixed for a whole study.

    Attributes:
        items: Document numbers of each task.
        item_keys: For each of them the hash of its content; equal documents have equal keys.
        metrics: The metric of each task.
        weights: The weight of each task in the objective.
        functions: The tasks that are a user's Python functions.
        preferences: The tasks that are files of preferences.
        lengths: The tasks that measure the length of answers to another.
        bounds: The bounds of scores that the study gives, by task.
        model_args: Settings of lm-eval's model that change a prompt or a score.
        code: SHA-256 of the Python files that tasks were allowed to run.
        digest: Hash of everything that decides a score besides the weights of the model.
        warnings: Messages for the user before anything is spent.
        errors: The exception that a task's code raised on an item; callers clear it.
    """

    def __init__(
        self,
        loaded: LoadedTasks,
        tokenizer: Any,
        apply_chat_template: bool,
        engine: str | None,
        model_args: Mapping[str, Any],
    ) -> None:
        self._prepared = loaded.prepared
        self._choices: dict[Item, Choices] = {}
        self.functions = loaded.functions
        self.preferences = frozenset(loaded.preferences)
        self.lengths = loaded.lengths
        self.bounds = loaded.bounds
        self.model_args = model_args
        self.code = loaded.code
        self.warnings = [*loaded.warnings, *_metric_warnings(loaded)]
        self.errors: dict[Item, str] = {}
        self.items = {name: list(task.documents) for name, task in self._prepared.items()}
        self.item_keys = {
            name: [document_key(document) for document in task.documents.values()]
            for name, task in self._prepared.items()
        }
        self._cluster_keys = {
            name: _cluster_keys(name, task.documents, task.cluster)
            for name, task in self._prepared.items()
            if task.cluster is not None
        }
        for name, function in self.functions.items():
            self.items[name] = list(range(function.n_items))
            self.item_keys[name] = [document_key([name, item]) for item in self.items[name]]
        for name, length in self.lengths.items():
            self.items[name] = self.items[length.source]
            self.item_keys[name] = self.item_keys[length.source]
        every: dict[str, Prepared | FunctionTask | LengthTask]
        every = {**self._prepared, **self.functions, **self.lengths}
        self.metrics = {name: task.metric for name, task in every.items()}
        self.weights = {name: task.weight for name, task in every.items()}
        self._protocol = Protocol(
            {name: (one.task, one.metric, one.instances) for name, one in self._prepared.items()},
            self.item_keys,
            tokenizer,
            apply_chat_template,
            {name: function.digest for name, function in self.functions.items()},
            model_args,
            {name: length.source for name, length in self.lengths.items()},
        )
        self.digest = self._protocol.digest()
        self._engine = engine
        if engine is not None:
            self.digest += f" {engine}"

    @classmethod
    def load(
        cls,
        tasks: Sequence[TaskRequest | str],
        include_path: Sequence[Path | str] = (),
        num_fewshot: int | None = None,
        apply_chat_template: bool = False,
        tokenizer: Any = None,
        allow_task_code: bool = False,
        engine: str | None = None,
        *,
        system_instruction: str | None = None,
        fewshot_as_multiturn: bool | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        fewshot_seed: int | None = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> Harness:
        """Load tasks and build every request, once.

        Args:
            tasks: The tasks to score; plain strings are names.
            include_path: Folders of task YAML, searched before lm-eval's own tasks.
            num_fewshot: Examples in the prompt for tasks that do not fix it at 0.
            apply_chat_template: Render prompts with the tokenizer's chat template.
            tokenizer: Needed for the chat template; its identity goes into `digest`.
            allow_task_code: Whether tasks may run Python of their own.
            engine: Name of the engine that generates in place of the live model, for `digest`.
            system_instruction: See `Prompting`, as the next three.
            fewshot_as_multiturn: See there.
            gen_kwargs: See there.
            fewshot_seed: See there.
            model_args: Arguments of lm-eval's model, such as ``{"add_bos_token": True}``.

        Raises:
            UserError: See `loading.load`; or the tokenizer has no chat template.
        """
        if apply_chat_template and getattr(tokenizer, "chat_template", None) is None:
            raise UserError("`apply_chat_template` is set, but the tokenizer has no chat template")
        model_args = model_args or {}
        prompting = Prompting(
            num_fewshot,
            fewshot_seed,
            tokenizer if apply_chat_template else None,
            chat_template_args(model_args),
            system_instruction,
            fewshot_as_multiturn,
            gen_kwargs or {},
        )
        loaded = load(tasks, include_path, prompting, allow_task_code)
        return cls(loaded, tokenizer, apply_chat_template, engine, model_args)

    def describe(self) -> dict[str, Any]:
        """Return everything that a driver without lm-eval needs to know, ready for JSON."""
        return {
            "tasks": list(self.items),
            "output_types": {name: self.output_type(name) for name in self.items},
            "metrics": {
                name: {
                    "name": metric.name,
                    "filter": metric.filter,
                    "higher_is_better": metric.higher_is_better,
                    **({"bounds": list(self.bounds[name])} if name in self.bounds else {}),
                }
                for name, metric in self.metrics.items()
            },
            "weights": self.weights,
            "sampled": [name for name, one in self._prepared.items() if samples(one.task)],
            "num_fewshot": {
                name: one.task.config.num_fewshot for name, one in self._prepared.items()
            },
            "items": self.items,
            "item_keys": self.item_keys,
            "cluster_keys": self._cluster_keys,
            "digest": self.digest,
            "warnings": self.warnings,
            "code": self.code,
        }

    def item_digests(self) -> dict[str, list[str]]:
        """Return for each item of each task a hash of what decides its score besides the weights.

        A task that gets other documents keeps the digests of those that it had.
        """
        return self._protocol.item_digests({"engine": self._engine, "code": self.code})

    def has(self, items: Mapping[str, Sequence[int]]) -> bool:
        """Return whether all these documents are there."""
        return all(set(ids) <= set(self.items.get(task, ())) for task, ids in items.items())

    def output_type(self, task: str) -> str:
        """Return lm-eval's kind of task, ``function``, or ``answer_tokens``."""
        if task in self.functions:
            return "function"
        if task in self.lengths:
            return ANSWER_TOKENS
        return str(self._prepared[task].task.OUTPUT_TYPE)

    def requests(self, task: str, doc_id: int) -> list[Request]:
        """Return a document's requests, in the order in which `grade` wants their answers."""
        instances = self._prepared[self.asked(task)].instances[doc_id]
        return [Request(instance.request_type, instance.args) for instance in instances]

    def repeats(self, task: str) -> int:
        """Return how many answers the task wants to each generation request."""
        return int(self._prepared[self.asked(task)].task.config.repeats or 1)

    def asked(self, task: str) -> str:
        """Return the task whose requests are asked: another's, where its answers are measured."""
        return self.lengths[task].source if task in self.lengths else task

    def golds(self, task: str, doc_id: int) -> list[tuple[str, str]]:
        """Return (context, answer) for each right answer of a generation document."""
        prepared = self._prepared[task]
        context = prepared.instances[doc_id][0].args[0]
        return golds_of(prepared.task, prepared.documents[doc_id], context, prepared.chat)

    def choices(self, task: str, doc_id: int) -> Choices:
        """Return the right choices of a multiple-choice document, and their normalisation."""
        if (task, doc_id) not in self._choices:
            prepared = self._prepared[task]
            document = prepared.documents[doc_id]
            self._choices[task, doc_id] = choices_of(prepared.task, document, prepared.metric.name)
        return self._choices[task, doc_id]

    def chooses(self, task: str) -> bool:
        """Return whether a task's metric only asks if the likeliest choice is a right one."""
        prepared = self._prepared[task]
        return (
            self.output_type(task) == "multiple_choice"
            and prepared.metric.name in CHOICE_METRICS
            and takes_first_choice(prepared.task, prepared.metric.filter)
        )

    def grade(self, task: str, answers: Mapping[int, Sequence[Any]]) -> dict[int, Grade]:
        """Let the task grade answers.

        A document on which the task's own code raises gets no value, and a line in `errors`.

        Args:
            task: The task.
            answers: For each document one answer per request: a text, a log-likelihood, or a
                (log-likelihood, is_greedy) pair, as lm-eval's own models give them. A list has one
                for each time that the task's `repeats` asks; a single one stands for them all.
        """
        prepared = self._prepared[task]
        answered = []
        for doc_id, replies in answers.items():
            for instance, reply in zip(prepared.instances[doc_id], replies, strict=True):
                repeated = reply if isinstance(reply, list) else [reply] * (instance.repeats or 1)
                instance.resps = repeated
                instance.filtered_resps = {}
                answered.append(instance)
        metric_filter = prepared.metric.filter
        ensembles = [one for one in prepared.task._filters if one.name == metric_filter]
        all_filtered = _apply(ensembles, answered)
        grades = {}
        for doc_id in answers:
            instances = prepared.instances[doc_id]
            try:
                if not all_filtered:
                    for ensemble in ensembles:
                        ensemble.apply(instances)
                filtered = [instance.filtered_resps[metric_filter] for instance in instances]
                values = prepared.task.process_results(prepared.documents[doc_id], filtered)
                value = value_of(task, prepared.metric, values)
            except UserError:
                raise
            except Exception as error:  # whatever a filter or a metric makes of this answer
                self.errors[task, doc_id] = f"{type(error).__name__}: {error}"
                grades[doc_id] = Grade(None, extracted=False)
                continue
            grades[doc_id] = Grade(value, all(_is_extracted(answer) for answer in filtered))
        return grades


def _metric_warnings(loaded: LoadedTasks) -> list[str]:
    """Warn of scores that are below 0, and of those that nobody gets a second time."""
    warnings = []
    for name, prepared in loaded.prepared.items():
        if not prepared.metric.higher_is_better:
            warnings.append(
                f"task '{name}': lower is better by {prepared.metric.name}, so that it counts with "
                "a minus: a mean over the tasks may be below 0"
            )
        if samples(prepared.task):
            times = prepared.task.config.repeats or 1
            asked = f", {times} times for each document (repeats: {times})" if times > 1 else ""
            warnings.append(
                f"task '{name}' draws its answers at random{asked}: evomerge draws the same each "
                "time, but the stock lm_eval command draws others, and so prints another score"
            )
    return warnings


def _apply(ensembles: Sequence[Any], answered: Sequence[Any]) -> bool:
    """Apply filters to all answers at once; return False if one bad answer stopped them for all."""
    try:
        for ensemble in ensembles:
            ensemble.apply(answered)
    except Exception:  # the caller then finds out which, document by document
        return False
    return True


def _is_extracted(answer: Any) -> bool:
    return not (isinstance(answer, str) and answer.strip() in ("", INVALID))


def _cluster_keys(task: str, documents: Mapping[int, Any], field: str) -> list[str]:
    """Return a key of each document's field, which says what the document belongs to."""
    for number, document in documents.items():
        if field not in document:
            raise UserError(
                f"task '{task}': cluster: expected the field '{field}' in every document, but "
                f"document {number} has {', '.join(map(str, document))}"
            )
    return [document_key([field, document[field]]) for document in documents.values()]
