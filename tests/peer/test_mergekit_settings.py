"""Gradients and filters resolved by mergekit 0.1.5 and by us."""

import json
import random
from pathlib import Path

from evomerge.recipe.values import resolve
from tests.peer.both import mergekit_python, needs_mergekit

pytestmark = needs_mergekit
NAMES = [
    "model.embed_tokens.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.11.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]
FILTERS = ["mlp", "self_attn", "layers.1.", "layers.1", "norm", "*", "", None, "Weight", "lm_head"]


def setting(draw):
    kind = draw.randrange(5)
    number = draw.choice([draw.uniform(-1, 2), draw.randint(0, 3)])
    if kind == 0:
        return number
    if kind == 1:
        return [draw.uniform(-1, 2) for _ in range(draw.randint(1, 5))]
    if kind == 2:
        return draw.choice([True, False, [True, False], [False, True, True]])
    values = [[draw.random() for _ in range(draw.randint(1, 3))], number]
    cases = [
        {"value": draw.choice(values), "filter": draw.choice(FILTERS)}
        for _ in range(draw.randint(1, 4))
    ]
    return cases[0] if kind == 3 else cases


def test_every_setting_is_resolved_as_mergekit_resolves_it():
    draw = random.Random(5)
    positions = [0.0, 1.0, 1 / 3, 0.5, 0.999]
    cases = [(setting(draw), draw.choice(NAMES), draw.choice(positions)) for _ in range(2000)]
    script = Path(__file__).with_name("resolve_settings.py")
    theirs = json.loads(mergekit_python(script, json.dumps(cases)))
    different = [
        (case, ours_here, its)
        for case, its in zip(cases, theirs, strict=True)
        if (ours_here := ours(*case)) != its or type(ours_here) is not type(its)
    ]
    assert not different[:3]
    assert None in theirs
    assert True in [value for value in theirs if isinstance(value, bool)]


def ours(setting, name, position):
    """The value after reading, which makes a list of a lone condition."""
    return resolve([setting] if isinstance(setting, dict) else setting, name, position)
