"""Loads the tasks that a study asks for and prepares them, every mistake named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import SIZE_METRICS
from evomerge.evaluate.tasks.function_task import FunctionTask, load_function, size_task
from evomerge.evaluate.tasks.length_task import LengthTask, length_task
from evomerge.evaluate.tasks.lm_eval_api import (
    BUILT_IN,
    FEWSHOT_SEED,
    load_file,
    load_tasks,
    open_index,
    quieten,
)
from evomerge.evaluate.tasks.metric import choose_metric
from evomerge.evaluate.tasks.preparation import (
    ChatRenderer,
    Prepared,
    named,
    prepare,
    set_fewshot,
)
from evomerge.evaluate.tasks.protocol import cluster_hints, task_warnings
from evomerge.evaluate.tasks.request import Prompting, TaskRequest
from evomerge.evaluate.tasks.task_files import check_folders, code_files
from evomerge.evaluate.tasks.task_index import refuse_code, task_files


@dataclass(frozen=True)
class LoadedTasks:
    """The tasks of a study.

    Attributes:
        prepared: Tasks of lm-eval and of text files, by name.
        functions: Tasks that are a user's Python functions, by name.
        lengths: Tasks that measure the length of answers to another, by name.
        preferences: Names of the tasks that are files of preferences.
        bounds: By name, the bounds of scores that the study gives.
        code: SHA-256 of each Python file that tasks were allowed to run.
        warnings: Messages for the user.
    """

    prepared: dict[str, Prepared] = field(default_factory=dict)
    functions: dict[str, FunctionTask] = field(default_factory=dict)
    lengths: dict[str, LengthTask] = field(default_factory=dict)
    preferences: set[str] = field(default_factory=set)
    bounds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def load(
    tasks: Sequence[TaskRequest | str],
    include_path: Sequence[Path | str],
    prompting: Prompting,
    allow_task_code: bool,
) -> LoadedTasks:
    """Load tasks and build every request, once.

    Args:
        tasks: The tasks to score; plain strings are names.
        include_path: Folders of task YAML, searched before lm-eval's own tasks.
        prompting: The options that decide what tasks ask.
        allow_task_code: Whether tasks may run Python of their own.

    Raises:
        UserError: For unknown tasks, metrics and filters, for tasks without documents, for
            tasks that need code which was not allowed.
    """
    quieten()
    folders = check_folders(include_path)
    requests = [TaskRequest(task) if isinstance(task, str) else task for task in tasks]
    if not requests:
        raise UserError("expected at least one task to score, but `tasks` is empty")
    of_lm_eval = [
        task
        for task in requests
        if not (task.file or task.function or task.tokens_of or task.counts)
    ]
    names = [task.name for task in of_lm_eval]
    manager = open_index(names, folders) if names else None
    loaded = LoadedTasks()
    if allow_task_code:
        index = manager.task_index if manager else {}
        loaded.code.update(code_files(folders, task_files(names, index, BUILT_IN)))
    renderer = None
    if prompting.chat_tokenizer is not None:
        renderer = ChatRenderer(prompting.chat_tokenizer, prompting.chat_template_args)
    seed = FEWSHOT_SEED if prompting.fewshot_seed is None else prompting.fewshot_seed
    for request in requests:
        if request.tokens_of is not None:
            continue
        if request.counts is not None:
            loaded.functions[request.name] = size_task(request.name, request.counts, request.weight)
            continue
        if request.function is not None:
            loaded.functions[request.name] = _function(request, allow_task_code)
            if request.bounds is not None:
                loaded.bounds[request.name] = request.bounds
            continue
        if request.file is None:
            assert manager is not None
            if not allow_task_code:
                refuse_code(request.name, manager.task_index, BUILT_IN)
            members = load_tasks(request.name, manager, allow_task_code)
        else:
            members = {request.name: load_file(request)}
            if request.preferences is not None:
                loaded.preferences.add(request.name)
        for name, task in members.items():
            if name in loaded.prepared:
                raise UserError(f"task '{name}' is asked for twice (once in '{request.name}')")
            entry = manager.task_index.get(name) if manager and request.file is None else None
            source = entry.yaml_path if entry else request.file
            with named(name, source):
                set_fewshot(task, request.num_fewshot, prompting.num_fewshot, seed)
                if prompting.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
                    changed = dict(prompting.gen_kwargs)
                    task.set_config(key="generation_kwargs", value=changed, update=True)
                loaded.prepared[name] = prepare(
                    task,
                    choose_metric(name, task, request.metric, source),
                    request.weight / len(members),
                    source,
                    renderer,
                    prompting,
                    request.cluster,
                )
                if request.bounds is not None:
                    loaded.bounds[name] = request.bounds
                if request.file is None:
                    loaded.warnings.extend(task_warnings(name, task, source, BUILT_IN))
                    if request.cluster is None:
                        documents = list(loaded.prepared[name].documents.values())
                        loaded.warnings.extend(cluster_hints(name, documents))
    for request in requests:
        if request.tokens_of is not None:
            loaded.lengths[request.name] = one = length_task(request, loaded.prepared)
            if one.bounds is not None:
                loaded.bounds[request.name] = one.bounds
    loaded.warnings.extend(
        f"allowed task code: {file}, SHA-256 {sha256[:16]}" for file, sha256 in loaded.code.items()
    )
    if renderer is not None and renderer.drops_system:
        loaded.warnings.append(
            "the chat template takes no system message, so prompts go without one, as in lm_eval: "
            "neither system_instruction nor a task's description is asked"
        )
    loaded.warnings.extend(
        f"task '{name}': its function gives one number, the same on searched and on held-out "
        "items: a verdict says nothing about new data there"
        for name, function in loaded.functions.items()
        if function.items is None and function.digest not in SIZE_METRICS
    )
    return loaded


def _function(request: TaskRequest, allow_task_code: bool) -> FunctionTask:
    assert request.function is not None
    if not allow_task_code:
        raise UserError(
            f"task '{request.name}' runs code of its own ({request.function}); read it, then allow "
            "it with `allow_task_code`"
        )
    return load_function(request.name, request.function, request.items, request.weight)
