"""The study file: what a search is told, with every default in one place, read strictly."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evomerge import model_name, yaml_file
from evomerge.errors import UserError, unknown
from evomerge.study.constraints import Constraint
from evomerge.study.pools import check_shares

ITEMS_PER_CANDIDATE, LEAST_PER_TASK = 48, 4  # where a study does not say items.per_generation


@dataclass(frozen=True)
class TaskConfig:
    """One lm-eval task: its metric (``None``: the task's first) and its weight in the objective.

    Attributes:
        name: As lm-eval knows it: one of its own, or of a YAML file in `include_path`.
        metric: The metric that race and verdict compare by; ``None`` takes the task's first.
        weight: Its share of the objective is its weight over the sum of all weights.
    """

    name: str
    metric: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """Bits per byte of a text file; its chunks are the task's documents.

    Attributes:
        text: A UTF-8 file.
        chunk_bytes: How long a chunk is; it ends with a line where it can.
    """

    text: str = ""
    chunk_bytes: int = 1000


@dataclass(frozen=True)
class FunctionTaskConfig(TaskConfig):
    """A Python function that scores the live model, higher is better; needs `allow_task_code`.

    Attributes:
        function: ``file.py:function`` or ``module:function``, called with the model and tokenizer.
        items: How many scores it returns; ``None`` for one number, which stands for ten items.
    """

    function: str = ""
    items: int | None = None


@dataclass(frozen=True)
class ItemsConfig:
    """Shares of each task's documents, and how many of each task a generation sees.

    Attributes:
        search: Share of each task's documents that candidates are searched on.
        race: Share for the race between the best candidates.
        holdout: Share for the verdict; nobody searches on these.
        search_tasks: Tasks all of whose documents are searched on; they share none with the other
            pools. The tasks that no list names are split by the shares.
        race_tasks: Tasks for the race alone.
        holdout_tasks: Tasks for the verdict alone.
        per_generation: Documents of each task that a generation is scored on, redrawn for each.
            By default 48 over all tasks together, but at least 4 of each: more candidates on fewer
            items find more (experiments/optimizer_benchmark).
    """

    search: float = 0.5
    race: float = 0.2
    holdout: float = 0.3
    per_generation: int | None = None
    search_tasks: tuple[str, ...] = ()
    race_tasks: tuple[str, ...] = ()
    holdout_tasks: tuple[str, ...] = ()

    @property
    def pool_of(self) -> dict[str, str]:
        """The pool of each task that belongs to one alone."""
        lists = {"search": self.search_tasks, "race": self.race_tasks}
        lists["holdout"] = self.holdout_tasks
        return {task: pool for pool, tasks in lists.items() for task in tasks}

    @property
    def shares(self) -> dict[str, float]:
        """The three pools' shares."""
        return {"search": self.search, "race": self.race, "holdout": self.holdout}


@dataclass(frozen=True)
class EvaluateConfig:
    """How candidates are scored.

    Attributes:
        tasks: lm-eval tasks: a name, or a mapping of `name`, `metric` and `weight`. With `text` a
            file's bits per byte, with `function` a Python function's scores.
        include_path: Folders of task YAML.
        num_fewshot: Examples in the prompt; ``None`` leaves it to the task.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        batch_size: Rows per batch; ``auto`` is 64.
        fitness: ``smooth`` scores by log-likelihoods, with no decoding; ``metric`` by the task's
            own metric. Race and verdict always use the metric.
        items: How documents are shared out.
        allow_task_code: Whether tasks may run Python of their own. Only for tasks that you trust.
        engine: What generates answers: ``hf``, the live model, or ``vllm``, an engine beside it
            whose weights are replaced in place. Likelihoods are the live model's in either case.
        engine_options: Passed to `vllm.LLM`, e.g. ``{gpu_memory_utilization: 0.5}``.
    """

    tasks: tuple[TaskConfig, ...]
    include_path: tuple[str, ...] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int | Literal["auto"] = "auto"
    fitness: Literal["smooth", "metric"] = "smooth"
    items: ItemsConfig = field(default_factory=ItemsConfig)
    allow_task_code: bool = False
    engine: Literal["hf", "vllm"] = "hf"
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items_per_task(self) -> int:
        """Documents of each task in a generation."""
        if self.items.per_generation is not None:
            return self.items.per_generation
        apart = len(self.items.race_tasks) + len(self.items.holdout_tasks)
        searched = max(1, len(self.tasks) - apart)
        return max(LEAST_PER_TASK, round(ITEMS_PER_CANDIDATE / searched))

    @property
    def rows_per_batch(self) -> int:
        """The batch size as a number; ``auto`` is 64."""
        return 64 if self.batch_size == "auto" else self.batch_size


@dataclass(frozen=True)
class SearchConfig:
    """Which optimizer, for how long.

    Attributes:
        optimizer: ``catcma`` (floats and choices), ``cmaes`` (floats), ``optuna``, ``random``, …
        trials: How many recipes to try, in whole generations.
        seed: Of the optimizer, the item pools and the methods that drop at random.
        population: Recipes in a generation; ``None`` leaves it to the optimizer.
        deadline: How long a session may take, race and verdict included, e.g. ``8h``.
        random_share: Share of the trials that is drawn at random, as a control arm that the report
            shows next to the optimizer.
        objective: ``weighted``: the tasks' mean by weight; ``pareto``: every task by itself.
        constraints: What must not be lost, e.g. ``mmlu >= best parent - 0.01``.
        simplicity: Price of a recipe's distance from where the search starts, as a mean share of
            the dimensions' ranges; 0 for none.
        select: Which of those that the race finds equal is recommended: ``best`` or ``simplest``,
            the one nearest to the start within one standard error of the best.
        options: Passed to the optimizer, e.g. ``{sigma: 0.1}``.
    """

    optimizer: str = "catcma"
    trials: int = 240
    seed: int = 0
    population: int | None = None
    deadline: str | None = None
    random_share: float = 0.05
    objective: Literal["weighted", "pareto"] = "weighted"
    constraints: tuple[str, ...] = ()
    simplicity: float = 0.0
    select: Literal["best", "simplest"] = "best"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkersConfig:
    """Where candidates are built and scored.

    Attributes:
        backend: ``local`` child processes, or ``ray`` actors.
        count: How many; their number never changes what a search finds.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: a GPU where there is one.
        threads: CPU threads of each worker.
        gpus: Of each Ray actor: 1 is one to itself, 0.5 shares one between two.
        ray_address: A cluster to join, ``auto`` for the one on this machine; ``None`` starts one.
    """

    backend: Literal["local", "ray"] = "local"
    count: int = 1
    device: str = "auto"
    threads: int = 1
    gpus: float = 0.0
    ray_address: str | None = None


@dataclass(frozen=True)
class OutputConfig:
    """What becomes of the winner; `dtype` is also what every candidate is scored in.

    Attributes:
        dtype: Of the merged weights, and of every candidate's; arithmetic is in float32.
        save_model: Whether the winner is written as a model folder, or only as a recipe.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    save_model: bool = True


@dataclass(frozen=True)
class StudyConfig:
    """A study file, checked; folders are absolute, hub ids as given.

    Attributes:
        base_model: What the models were fine-tuned from: a folder or a hub id.
        models: The fine-tunes: folders, hub ids, or ``{model: …, adapter: …}`` with a LoRA adapter.
        space: A shipped space's name, a path, or a recipe with holes.
        evaluate: How candidates are scored.
        search: Which optimizer, for how long.
        workers: Where candidates are built and scored.
        output: What becomes of the winner.
    """

    base_model: str
    models: tuple[str, ...]
    space: str | Mapping[str, Any]
    evaluate: EvaluateConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @classmethod
    def from_yaml(cls, file: str | Path) -> StudyConfig:
        """Read a study file; folders in it are taken relative to the file.

        Raises:
            UserError: A key is unknown or missing, or a value is not what it should be.
        """
        path = Path(file)
        return cls.from_dict(yaml_file.read(path), path.parent, str(path))

    @classmethod
    def from_dict(cls, document: Any, folder: Path, where: str = "study") -> StudyConfig:
        """Read a study from plain data; folders in it are taken relative to `folder`."""
        document = yaml_file.mapping(model_name.joined(document, where), where)
        config = _read(cls, document, where)
        assert isinstance(config, StudyConfig)

        def absolute(name: str) -> str:
            return str((folder / name).resolve()) if (folder / name).exists() else name

        if len(set(config.models)) != len(config.models) or not config.models:
            raise UserError(f"{where}: models: expected one or more different models")
        if config.search.trials < 1:
            raise UserError(
                f"{where}: search.trials: expected at least 1, got {config.search.trials}"
            )
        if not 0 <= config.search.random_share <= 0.5:
            raise UserError(
                f"{where}: search.random_share: expected a share from 0 to 0.5, "
                f"but got {config.search.random_share}"
            )
        if not 0 <= config.search.simplicity < math.inf:
            raise UserError(
                f"{where}: search.simplicity: expected a number of at least 0, "
                f"but got {config.search.simplicity}"
            )
        if config.workers.count < 1 or config.workers.threads < 1 or config.workers.gpus < 0:
            raise UserError(
                f"{where}: workers: expected count and threads of at least 1 and gpus of at least 0"
            )
        seconds(config.search.deadline, f"{where}: search.deadline")
        names = [task.name for task in config.evaluate.tasks]
        if not names or len(set(names)) != len(names):
            raise UserError(f"{where}: evaluate.tasks: expected one or more different tasks")
        for text in config.search.constraints:
            Constraint.parse(text, names, f"{where}: search.constraints")
        config = dataclasses.replace(config, evaluate=_counted(config.evaluate))
        if config.search.constraints and config.evaluate.items.pool_of:
            raise UserError(
                f"{where}: search.constraints: they hold on search, race and held-out items of "
                "their task, so no task may belong to one pool alone"
            )
        _check_evaluate(config.evaluate, where)
        space = config.space
        if isinstance(space, str) and (folder / space).is_file():
            space = str((folder / space).resolve())
        if isinstance(space, Mapping):  # a recipe may name the models as the study does
            named = {name: absolute(name) for name in (config.base_model, *config.models)}
            space = _renamed(space, named)
        for shown in config.evaluate.include_path:
            if not (folder / shown).is_dir():
                raise UserError(f"{where}: evaluate.include_path: {folder / shown} is no folder")
        return dataclasses.replace(
            config,
            base_model=model_name.relocated(config.base_model, folder),
            models=tuple(model_name.relocated(model, folder) for model in config.models),
            space=space,
            evaluate=dataclasses.replace(
                config.evaluate,
                include_path=tuple(map(absolute, config.evaluate.include_path)),
                tasks=tuple(_located(task, absolute, where) for task in config.evaluate.tasks),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default shown; `from_dict` gives it back."""
        document: dict[str, Any] = _plain(self)
        return document


def seconds(text: str | None, where: str = "deadline") -> float | None:
    """Seconds of a time span such as ``90s``, ``45m`` or ``8h``; ``None`` for none.

    >>> seconds("1.5h")
    5400.0
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(text).strip())
    if not found:
        raise UserError(f"{where}: expected a time span such as 45m or 8h, but got {text!r}")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _check_evaluate(evaluate: EvaluateConfig, where: str) -> None:
    """Refuse numbers that nothing could be scored with."""
    weights = [task.weight for task in evaluate.tasks]
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise UserError(
            f"{where}: evaluate.tasks: expected weights of at least 0, not all 0, but got {weights}"
        )
    for i, task in enumerate(evaluate.tasks):
        key = f"{where}: evaluate.tasks[{i}]"
        if isinstance(task, TextTaskConfig) and task.chunk_bytes < 1:
            raise UserError(f"{key}.chunk_bytes: expected at least 1, but got {task.chunk_bytes}")
        if isinstance(task, FunctionTaskConfig):
            if task.items is not None and task.items < 1:
                raise UserError(f"{key}.items: expected at least 1, but got {task.items}")
            if task.metric is not None:
                raise UserError(f"{key}.metric: a function's scores are its metric")
            if not evaluate.allow_task_code:
                raise UserError(
                    f"{key}.function: {task.function} is code; read it, then set "
                    "evaluate.allow_task_code: true"
                )
    if evaluate.engine_options and evaluate.engine != "vllm":
        raise UserError(f"{where}: evaluate.engine_options: only `engine: vllm` takes options")
    sizes = {
        "batch_size": evaluate.rows_per_batch,
        "items.per_generation": evaluate.items_per_task,
    }
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{where}: evaluate.{name}: expected at least 1, but got {size}")
    items = evaluate.items
    listed = [*items.search_tasks, *items.race_tasks, *items.holdout_tasks]
    twice = sorted({task for task in listed if listed.count(task) > 1})
    if twice:
        raise UserError(f"{where}: evaluate.items: task {twice[0]} is listed twice")
    try:
        check_shares(items.shares)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _counted(evaluate: EvaluateConfig) -> EvaluateConfig:
    """The same with a number of items per generation where none was given."""
    items = dataclasses.replace(evaluate.items, per_generation=evaluate.items_per_task)
    return dataclasses.replace(evaluate, items=items)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data with some texts in place of others."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _located(task: TaskConfig, absolute: Callable[[str], str], where: str) -> TaskConfig:
    """The task with its file's whole path."""
    if isinstance(task, TextTaskConfig):
        text = absolute(task.text)
        if not Path(text).is_file():
            raise UserError(f"{where}: evaluate.tasks: {task.name}: there is no file {text}")
        return dataclasses.replace(task, text=text)
    if isinstance(task, FunctionTaskConfig):
        module, colon, function = task.function.rpartition(":")
        return dataclasses.replace(task, function=absolute(module) + colon + function)
    return task


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of the annotated kind: dataclasses by field, tuples from lists."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if kind is TaskConfig and isinstance(value, str):
            return TaskConfig(value)
        document = yaml_file.mapping(value, where)
        if kind is TaskConfig:
            own = {"text": TextTaskConfig, "function": FunctionTaskConfig}
            kind = next((own[key] for key in own if key in document), kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        yaml_file.check_keys(document, fields, where)
        hints = typing.get_type_hints(kind)
        for name, entry in fields.items():
            missing = entry.default is dataclasses.MISSING
            if name not in document and missing and entry.default_factory is dataclasses.MISSING:
                raise UserError(f"{where}: expected a key '{name}'")
        return kind(
            **{
                name: _read(hints[name], item, f"{where}: {name}")
                for name, item in document.items()
            }
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list but got {value!r}")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {unknown('value', str(value), map(str, arguments))}")
        return value
    if origin is not None or kind in (Mapping, Any):
        return yaml_file.mapping(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise UserError(f"{where}: expected {words.get(kind, kind)}, but got {value!r}")
    if isinstance(value, float) and value != value:
        raise UserError(f"{where}: expected a number but got nan")
    return value


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for candidate in arguments:
        if candidate is type(None):
            continue
        try:
            return _read(candidate, value, where)
        except UserError as error:
            problems.append(error)
    raise problems[0]
