"""Run many mergekit commands in one process, for it takes seconds to start.

    MERGEKIT_PYTHON tests/peer/run_mergekit.py < commands.json

is to be run by the Python of an environment that has mergekit. Standard input holds a list of
commands: ["yaml", CONFIG, OUT, ...] or ["multi", CONFIG, ...], with their arguments. It writes a
list with, for each, null or what went wrong.
"""

import json
import sys

from mergekit.scripts import multimerge, run_yaml

MAIN = {"yaml": run_yaml.main, "multi": multimerge.main}


def main():
    problems = []
    for program, *arguments in json.load(sys.stdin):
        try:
            MAIN[program].main(arguments, standalone_mode=False)
            problems.append(None)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    json.dump(problems, sys.stdout)


if __name__ == "__main__":
    main()
