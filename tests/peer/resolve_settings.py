"""Resolve parameter settings as mergekit does.

    MERGEKIT_PYTHON tests/peer/resolve_settings.py < cases.json

Standard input holds a list of [setting, tensor's name, position]; it writes a list of values.
"""

import json
import sys

from mergekit.config import InputModelDefinition, evaluate_setting


def main():
    values = []
    for setting, name, position in json.load(sys.stdin):
        entry = {"model": "x", "parameters": {"p": setting}}
        parsed = InputModelDefinition.model_validate(entry).parameters["p"]
        values.append(evaluate_setting(name, parsed, position, validate=lambda value: value))
    json.dump(values, sys.stdout)


if __name__ == "__main__":
    main()
