"""Scores the model as it stands on lm-eval tasks: prepared once, asked again and again."""

from evomerge.evaluate.harness import Harness
from evomerge.evaluate.metric import Metric
from evomerge.evaluate.model import load_model, load_tokenizer
from evomerge.evaluate.outcomes import NonFiniteError, Outcome
from evomerge.evaluate.request import TaskRequest
from evomerge.evaluate.scorer import Scorer

__all__ = [
    "Harness",
    "Metric",
    "NonFiniteError",
    "Outcome",
    "Scorer",
    "TaskRequest",
    "load_model",
    "load_tokenizer",
]
