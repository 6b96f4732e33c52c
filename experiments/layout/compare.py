"""Compare two files of `substance.py`: ``python compare.py BEFORE AFTER`` prints what differs."""

from __future__ import annotations

import json
import sys


def differences(before: object, after: object, where: str = "") -> list[str]:
    """One line for each value that differs, with the path to it."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted(before.keys() | after.keys())
            for line in differences(before.get(key), after.get(key), f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            line
            for index, (one, other) in enumerate(zip(before, after, strict=True))
            for line in differences(one, other, f"{where}[{index}]")
        ]
    return [] if before == after else [f"{where}: {str(before)[:70]} -> {str(after)[:70]}"]


def main() -> None:
    with open(sys.argv[1]) as one, open(sys.argv[2]) as other:
        lines = differences(json.load(one), json.load(other))
    print("\n".join(lines) or "equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
