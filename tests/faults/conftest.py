"""The studies, stub workers and drivers of `tests/study`."""

from tests.study.conftest import drivers, finished, small_study, stub_workers

__all__ = ["drivers", "finished", "small_study", "stub_workers"]
