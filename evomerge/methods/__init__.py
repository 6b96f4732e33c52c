"""Merge methods: pure functions of tensors, and what they declare about themselves."""

from evomerge.methods.dare_linear import dare_linear
from evomerge.methods.dare_ties import dare_ties
from evomerge.methods.linear import linear
from evomerge.methods.model_stock import model_stock
from evomerge.methods.parameters import REQUIRED, Count, ParameterSpec, Range
from evomerge.methods.passthrough import passthrough
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import MethodSpec, get, merge_method, names, registered
from evomerge.methods.slerp import slerp
from evomerge.methods.task_arithmetic import task_arithmetic
from evomerge.methods.ties import ties

__all__ = [
    "REQUIRED",
    "Count",
    "CounterRandom",
    "MethodSpec",
    "ParameterSpec",
    "Range",
    "dare_linear",
    "dare_ties",
    "get",
    "linear",
    "merge_method",
    "model_stock",
    "names",
    "passthrough",
    "registered",
    "slerp",
    "task_arithmetic",
    "ties",
]
