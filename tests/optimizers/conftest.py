"""What the conformance of all optimizers is tested with."""

from tests.optimizers.test_conformance import make

__all__ = ["make"]
