"""``python -m tests.faults``: run every fault's tests, and print how many faults are survived."""

from __future__ import annotations

import sys
import time

import pytest

from tests.faults.rows import ROWS


class Tally:
    """Which tests passed, by the identifier that pytest gives them."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's worst phase counts."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep only the tests that a row names."""
        named = [test for _, tests in ROWS.values() for test in tests]
        items[:] = [item for item in items if any(is_run_of(item.nodeid, test) for test in named)]


def is_run_of(node: str, test: str) -> bool:
    """True if pytest's node is this test, with the same parameters or with any if it names none."""
    return node == test or node.startswith(f"{test}[")


def main() -> int:
    """0 if every fault is survived."""
    began, tally = time.monotonic(), Tally()
    files = list(
        dict.fromkeys(test.partition("::")[0] for _, tests in ROWS.values() for test in tests)
    )
    slow = "" if "--quick" not in sys.argv else "not slow"
    pytest.main(["-q", "-m", slow, "-p", "no:cacheprovider", "--no-header", *files], [tally])
    survived = 0
    print()
    for number, (fault, tests) in ROWS.items():
        runs = [o for n, o in tally.outcomes.items() if any(is_run_of(n, test) for test in tests)]
        absent = [t for t in tests if not any(is_run_of(node, t) for node in tally.outcomes)]
        good = bool(runs) and all(outcome == "passed" for outcome in runs)
        survived += good
        word = "survived" if good else "not run" if not runs else "NOT survived"
        lacking = f"; no such test ran: {', '.join(absent)}" if absent else ""
        print(f"{number:>2}  {word:<12} {fault} ({len(runs)} tests{lacking})")
    print(f"\nfaults survived: {survived}/{len(ROWS)} in {time.monotonic() - began:.0f} s")
    return int(survived < len(ROWS))


if __name__ == "__main__":
    sys.exit(main())
