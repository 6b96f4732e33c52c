"""Conformance suites for methods and optimizers of your own: subclass one, and run pytest.

from evomerge.testing import MethodConformance

class TestSameLength(MethodConformance):
    method = "same_length"        # after its file was imported
"""

from evomerge.testing.methods import MethodConformance
from evomerge.testing.optimizers import OptimizerConformance

__all__ = ["MethodConformance", "OptimizerConformance"]
