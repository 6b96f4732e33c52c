"""Reads the whole study file strictly."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.core import schema as reading
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.core.variables import expanded, with_settings
from evomerge.recipe.rows import Calibration
from evomerge.study.config import data as own_data
from evomerge.study.config.data import DataConfig
from evomerge.study.config.evaluate import EvaluateConfig
from evomerge.study.config.output import OutputConfig
from evomerge.study.config.search import SearchConfig
from evomerge.study.config.workers import WorkersConfig


@dataclass(frozen=True)
class StudyConfig:
    """A study file, checked; folders are absolute, hub ids as given.

    Attributes:
        base_model: What the models were fine-tuned from: a folder or a hub id.
        models: The fine-tunes: folders, hub ids, or ``{model: …, adapter: …}`` with a LoRA adapter;
            beside ``model`` may stand ``tasks: […]`` or ``data: FILE``, see `data`.
        space: A shipped space's name, a path, or a recipe with holes.
        evaluate: How candidates are scored.
        search: Which optimizer, for how long.
        workers: Where candidates are built and scored.
        output: What becomes of the winner.
        trust_remote_code: SHA-256 of the Python files in base_model's folder, which then run as
            you do, for an architecture that transformers lacks; `evomerge check` prints it. Other
            models' files never run.
        data: Rows of models' own, where they do not stand beside the models. RegMean, Fisher and
            UBGM need them, and are anchors where every model has some.
        calibration: How rows are read: ``rows``, ``tokens``, ``labels`` and ``seed``.
        methods: Merge methods of your own, ``FILE.py:NAME`` each; needs `evaluate.allow_task_code`.
        optimizers: Optimizers of your own, ``FILE.py:CLASS`` each, known by the class's name;
            needs `evaluate.allow_task_code`.
    """

    base_model: str
    models: tuple[str, ...]
    space: str | Mapping[str, Any]
    evaluate: EvaluateConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    trust_remote_code: str | None = None
    data: tuple[DataConfig, ...] | None = None
    calibration: Calibration | None = None
    methods: tuple[str, ...] | None = None
    optimizers: tuple[str, ...] | None = None

    @classmethod
    def from_yaml(cls, file: str | Path, settings: Iterable[str] = ()) -> StudyConfig:
        """Read a study file; folders in it are taken relative to the file.

        Args:
            file: The file; ``${NAME}`` in it stands for an environment variable.
            settings: Values that take the place of the file's, such as ``search.trials=100``.

        Raises:
            UserError: A key is unknown or missing, a value is not what it should be, or a variable
                is not set.
        """
        path = Path(file)
        document = expanded(yaml_file.read(path), os.environ, str(path))
        return cls.from_dict(with_settings(document, settings), path.parent, str(path))

    @classmethod
    def from_dict(cls, document: Any, folder: Path, where: str = "study") -> StudyConfig:
        """Read a study from plain data; folders in it are taken relative to `folder`."""
        document = yaml_file.mapping(model_name.joined(document, where), where)
        document = own_data.apart(document, folder)
        config = reading.read(cls, document, where)
        assert isinstance(config, StudyConfig)
        config.check(where)

        def absolute(name: str) -> str:
            return str((folder / name).resolve()) if (folder / name).exists() else name

        def located(entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
            parts = [entry.rpartition(":") for entry in entries or ()]
            return tuple(absolute(file) + colon + name for file, colon, name in parts) or None

        space = config.space
        if isinstance(space, str) and (folder / space).is_file():
            space = str((folder / space).resolve())
        if isinstance(space, Mapping):  # a recipe may name the models as the study does
            named = {name: absolute(name) for name in (config.base_model, *config.models)}
            space = reading.renamed(space, named)
        return dataclasses.replace(
            config,
            base_model=model_name.relocated(config.base_model, folder),
            models=tuple(model_name.relocated(model, folder) for model in config.models),
            space=space,
            data=config.data and tuple(one.complete(folder) for one in config.data),
            evaluate=config.evaluate.complete(folder, absolute, where),
            methods=located(config.methods),
            optimizers=located(config.optimizers),
        )

    def check(self, where: str) -> None:
        """Refuse what each section refuses, and what does not go together."""
        if len(set(self.models)) != len(self.models) or not self.models:
            raise UserError(f"{where}: models: expected one or more different models")
        self.evaluate.check(where)
        tasks = [task.name for task in self.evaluate.tasks]
        own_data.check(self.data or (), (*self.models, self.base_model), tasks, where)
        self.search.check([task.name for task in self.evaluate.tasks], where)
        self.workers.check(where)
        self.output.check(where)
        if self.scored_in not in ("float32", self.output.dtype):
            raise UserError(
                f"{where}: evaluate.dtype: expected float32 or output.dtype "
                f"({self.output.dtype}), since {self.scored_in} would round the weights that are "
                "exported"
            )
        if self.search.max_cost is not None and self.workers.price_per_hour is None:
            raise UserError(
                f"{where}: search.max_cost: expected workers.price_per_hour beside it: what does "
                "one worker cost an hour?"
            )
        for key in ("methods", "optimizers"):
            for entry in getattr(self, key) or ():
                if not self.evaluate.allow_task_code:
                    raise UserError(
                        f"{where}: {key}: {entry} is code; read it, then set "
                        "evaluate.allow_task_code: true"
                    )
        code = self.trust_remote_code
        if code is not None and not re.fullmatch("[0-9a-f]{64}", code):
            raise UserError(
                f"{where}: trust_remote_code: expected the SHA-256 of base_model's Python files, "
                f"as `evomerge check` prints it, but got {code[:80]!r}"
            )
        if code is not None and self.evaluate.engine == "vllm":
            raise UserError(
                f"{where}: trust_remote_code: vLLM does not run a model's own code here; expected "
                "engine: hf"
            )
        if self.workers.gpus > 1 and self.evaluate.engine == "vllm":
            raise UserError(
                f"{where}: workers.gpus: vLLM shares the weights of one GPU; expected at most 1, "
                f"or engine: hf, but got {self.workers.gpus:g}"
            )
        if self.search.constraints and self.evaluate.items.pool_of:
            raise UserError(
                f"{where}: search.constraints: they hold on search, race and held-out items of "
                "their task, so no task may belong to one pool alone"
            )

    @property
    def scored_in(self) -> str:
        """The dtype that candidates are scored in; it holds every value of `output.dtype`."""
        return self.evaluate.dtype or self.output.dtype

    def cost(self, seconds: float) -> float | None:
        """Return what all workers cost for so long; ``None`` without a price."""
        price = self.workers.price_per_hour
        return None if price is None else price * self.workers.least * seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with every default shown; `from_dict` gives it back."""
        document: dict[str, Any] = reading.plain(self)
        return document
