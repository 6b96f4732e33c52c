"""Makes a study from Python values (`create_study`), or from its run folder (`load_study`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge import optimizers
from evomerge.core import schema
from evomerge.core.errors import UserError
from evomerge.optimizers import Optimizer
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import (
    EvaluateConfig,
    ItemsConfig,
    OutputConfig,
    SearchConfig,
    StudyConfig,
    TaskConfig,
    WorkersConfig,
)
from evomerge.study.journal.codec import parse
from evomerge.study.journal.events import ChangedEvent, MovedEvent, StudyEvent
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.journal.state import StudyState
from evomerge.study.ledger import Listener
from evomerge.study.past import of_journal
from evomerge.study.study import Study


@dataclass(frozen=True)
class LMEval:
    """The study file's `evaluate` section, written with Python values.

    Attributes:
        tasks: lm-eval task names, or mappings {name, metric, weight}; with `text` or `function`
            as in a study file.
        include_path: Folders of task YAML, relative to the working directory.
        num_fewshot: Examples in the prompt; ``None`` leaves it to the task.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: Stands before every prompt.
        fewshot_as_multiturn: Whether examples are turns; ``None`` is yes with a chat template.
        gen_kwargs: Settings of generation over those of the tasks.
        fewshot_seed: Seed for drawing examples; ``None`` is lm_eval's 1234.
        model_args: Of lm_eval's `--model_args` those that change a prompt or a score.
        dtype: What the model computes in; ``None`` is the output's.
        batch_size: Rows per batch, or ``"auto"``.
        fitness: ``"smooth"`` (log-likelihoods, no decoding) or ``"metric"``.
        adapters: Sums of LoRA adapters ``"together"`` or ``"built"``; ``None``: the faster.
        items: Shares of the pools and `per_generation`; ``None`` takes the defaults.
        allow_task_code: Whether tasks may run Python of their own.
        engine: What generates answers: ``"hf"`` or ``"vllm"``.
        engine_options: Passed to `vllm.LLM`.
    """

    tasks: Sequence[str | Mapping[str, Any] | TaskConfig]
    include_path: Sequence[str | Path] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    fewshot_seed: int | None = None
    model_args: Mapping[str, Any] | None = None
    dtype: str | None = None
    batch_size: int | str = "auto"
    fitness: str = "smooth"
    adapters: str | None = None
    items: ItemsConfig | Mapping[str, Any] | None = None
    allow_task_code: bool = False
    engine: str = "hf"
    engine_options: Mapping[str, Any] = field(default_factory=dict)


def create_study(
    space: SearchSpace | str | Path,
    evaluate: LMEval | EvaluateConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    models: Sequence[str] | None = None,
    optimizer: str | Optimizer | None = None,
    search: SearchConfig | Mapping[str, Any] | None = None,
    workers: WorkersConfig | Mapping[str, Any] | None = None,
    output: OutputConfig | Mapping[str, Any] | None = None,
    trust_remote_code: str | None = None,
    methods: Sequence[str] | None = None,
    optimizers: Sequence[str] | None = None,
    listener: Listener | None = None,
    reuse: Sequence[str | Path] = (),
    **search_keys: Any,
) -> Study:
    """Make a study, or resume the one in `directory`.

    Every key of a study file can be given here: a section as its dataclass or as a mapping, and
    the keys of `search` also by themselves.

    >>> import tempfile
    >>> import evomerge as em
    >>> space = em.SearchSpace.from_yaml("task_arithmetic_by_depth")
    >>> space = space.bind(base="base", models=["a", "b"])
    >>> directory = tempfile.mkdtemp()
    >>> with em.create_study(space, em.LMEval(["gsm8k"]), directory, trials=100) as study:
    ...     trial = study.ask()  # nothing is read yet: you score `trial.recipe` yourself
    ...     study.tell(trial, {"gsm8k": 0.61})
    >>> em.load_study(directory).trials[0]
    Trial(0, 'a', scored, fitness=None)

    Args:
        space: A space, the name of a shipped one, or the path of a space file.
        evaluate: How candidates are scored.
        directory: The run folder.
        base_model: The base model; may be left out if the space names its models.
        models: The fine-tunes; may be left out if the space names its models
            (`SearchSpace.bind`).
        optimizer: An optimizer's name, or one that was made with options, e.g.
            ``CmaEs(sigma=0.1, population=16)``; only its class and options are used.
        search: The section `search`.
        workers: The section `workers`, e.g. ``WorkersConfig(backend="ray", count=8, gpus=1)``.
        output: The section `output`, e.g. ``OutputConfig(dtype="float32")``.
        trust_remote_code: As in a study file.
        methods: Merge methods of your own, ``FILE.py:NAME`` each.
        optimizers: Optimizers of your own, ``FILE.py:CLASS`` each.
        listener: Called after every event with the event and the record.
        reuse: Other run folders, as for `Study`.
        search_keys: Keys of `search`, which override that section: ``trials``, ``seed``,
            ``deadline="8h"``, ``objective``, ``constraints``, … as in `SearchConfig`.

    Raises:
        UserError: The space names no models and none are given, or a value is wrong.
    """
    listed: list[str] = []
    if base_model is None or models is None:
        base_model, listed = _models_of(_as_space(space), base_model, models)
    document = {
        "base_model": base_model,
        "models": _plain(listed if models is None else models),
        "space": space.document if isinstance(space, SearchSpace) else str(space),
        "evaluate": _evaluate_section(evaluate),
        "search": _search_section(search, optimizer, search_keys),
        "workers": _plain(workers or {}),
        "output": _plain(output or {}),
        "trust_remote_code": trust_remote_code,
        "methods": None if methods is None else list(methods),
        "optimizers": None if optimizers is None else list(optimizers),
    }
    return Study(StudyConfig.from_dict(document, Path.cwd()), directory, listener, reuse)


def load_study(
    directory: str | Path,
    listener: Listener | None = None,
    *,
    optimizer: str | Optimizer | None = None,
    workers: WorkersConfig | Mapping[str, Any] | None = None,
    output: OutputConfig | Mapping[str, Any] | None = None,
    allow_changed: bool = False,
    **search_keys: Any,
) -> Study:
    """Load the study of a run folder, to read it, to resume it, or to confirm it.

    `workers`, ``trials``, ``deadline``, ``output.save_model`` and ``output.adapter_rank`` may
    differ from what the study began with. Anything else that differs is refused when the study
    resumes, unless `allow_changed`.

    Args:
        directory: The run folder.
        listener: Called after every event with the event and the record.
        optimizer: Replaces the optimizer.
        workers: Replaces the section `workers`.
        output: Replaces the section `output`.
        allow_changed: As for `Study`.
        search_keys: Keys of `search` to replace, such as ``trials`` or ``deadline``.

    Raises:
        UserError: There is no journal, it is damaged, or the study was interrupted before it began.
    """
    state = StudyState()
    kinds = {kind.event_name for kind in (StudyEvent, ChangedEvent, MovedEvent)}
    for document in iterate(Path(directory) / JOURNAL):
        if document["event"] in kinds and (event := parse(document)) is not None:
            state.apply(event)
    if state.study is None:
        raise UserError(f"{directory}: this study was interrupted before it began: run it again")
    config = of_journal(state.study)
    config["search"] = _search_section(config["search"], optimizer, search_keys)
    if workers is not None:
        config["workers"] = _plain(workers)
    if output is not None:
        config["output"] = _plain(output)
    loaded = StudyConfig.from_dict(config, Path("/"))
    return Study(loaded, directory, listener, allow_changed=allow_changed)


def _as_space(space: SearchSpace | str | Path) -> SearchSpace:
    return space if isinstance(space, SearchSpace) else SearchSpace.from_yaml(space)


def _models_of(
    space: SearchSpace, base_model: str | None, models: Sequence[str] | None
) -> tuple[str, list[str]]:
    """Return the base model and the fine-tunes that a bound space names."""
    if space.unbound:
        missing = "models=[...]" if base_model is not None else "base_model=..."
        if base_model is None and models is None:
            missing = "base_model=... and models=[...]"
        raise UserError(
            f"{space.where}: names no models yet: call bind(base=..., models=[...]), "
            f"or give {missing}"
        )
    recipe = space.fill([dimension.start for dimension in space.dimensions])
    base = base_model or recipe.donor
    entries = [entry.model for entry in recipe.models]
    return base, [model for model in recipe.model_names if model != base or model in entries]


def _evaluate_section(evaluate: LMEval | EvaluateConfig) -> Any:
    section = _plain(evaluate)
    if isinstance(evaluate, LMEval):
        section["items"] = section["items"] or {}
    return section


def _search_section(
    section: SearchConfig | Mapping[str, Any] | None,
    optimizer: str | Optimizer | None,
    search_keys: Mapping[str, Any],
) -> Any:
    document = {**_plain(section or {}), **_plain(search_keys)}
    if isinstance(optimizer, str):
        document["optimizer"] = optimizer
    elif optimizer is not None:
        if search_keys.get("options"):
            raise UserError(
                "create_study: options: expected none beside an optimizer that was made with "
                f"options of its own, but got {search_keys['options']!r}"
            )
        name = optimizers.name_of(optimizer)
        fixed = optimizers.fixed_options(name)
        document["optimizer"] = name
        document["options"] = {
            key: _plain(value) for key, value in optimizer.options.items() if key not in fixed
        }
    return document


def _plain(value: Any) -> Any:
    """Return plain data as a study file would hold it: no dataclasses, tuples or paths."""
    if isinstance(value, Path):
        return str(value)
    if (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and not isinstance(value, LMEval)
    ):
        return schema.plain(value)
    if isinstance(value, LMEval):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
