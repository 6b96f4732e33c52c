"""Reads the study file: a file for each section, every default in one place."""

from evomerge.core.timespan import seconds
from evomerge.study.config.data import DataConfig
from evomerge.study.config.evaluate import EvaluateConfig
from evomerge.study.config.items import ItemsConfig
from evomerge.study.config.output import OutputConfig
from evomerge.study.config.search import SearchConfig, ThenConfig
from evomerge.study.config.study import StudyConfig
from evomerge.study.config.tasks import (
    CountsTaskConfig,
    FunctionTaskConfig,
    PreferencesTaskConfig,
    TaskConfig,
    TextTaskConfig,
    TokensTaskConfig,
)
from evomerge.study.config.workers import WorkersConfig

__all__ = [
    "CountsTaskConfig",
    "DataConfig",
    "EvaluateConfig",
    "FunctionTaskConfig",
    "ItemsConfig",
    "OutputConfig",
    "PreferencesTaskConfig",
    "SearchConfig",
    "StudyConfig",
    "TaskConfig",
    "TextTaskConfig",
    "ThenConfig",
    "TokensTaskConfig",
    "WorkersConfig",
    "seconds",
]
