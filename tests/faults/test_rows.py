"""The table of faults names tests that exist, in full."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.rows import ROWS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", ROWS)
def test_every_fault_names_tests_that_exist(number: int) -> None:
    for test in ROWS[number][1]:
        file, _, name = test.partition("::")
        defined = {
            node.name
            for node in ast.parse((ROOT / file).read_text()).body
            if isinstance(node, ast.FunctionDef)
        }
        assert name.partition("[")[0] in defined
