"""What the conformance of all optimizers is tested with."""

from tests.search.test_optimizer_conformance import make

__all__ = ["make"]
