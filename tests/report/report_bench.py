"""A small study written by hand: two tasks, two parents, two generations of two trials, a race."""

import json
import zlib

TASKS = {
    "quiz": {"metric": "acc", "higher_is_better": True, "weight": 3.0},
    "text": {"metric": "ppl", "higher_is_better": False, "weight": 1.0},
}
SEARCH = {"quiz": [0, 1], "text": [0]}
RACE = {"quiz": [10, 11, 12, 13], "text": [10, 11]}
HOLDOUT = {"quiz": [20, 21, 22, 23], "text": [20, 21]}
NAMES = ["left", "right", "base", "uniform average", *(f"trial {n}" for n in range(4, 9))]
KINDS = ["parent", "parent", "base", "anchor", *["trial"] * 5]
# Held-out answers: quiz items 20 to 23, text items 20 and 21. Means by hand: winner 3/4 and 2.0,
# so 3/4 * 0.75 - 1/4 * 2.0 = 0.0625; uniform average 2/4 and 2.5, so 0.375 - 0.625 = -0.25.
ANSWERS = {
    0: ([1, 0, 0, 0], [5.0, 5.0]),
    1: ([0, 1, 0, 0], [6.0, 4.0]),
    2: ([0, 0, 0, 0], [8.0, 8.0]),
    3: ([1, 1, 0, 0], [2.0, 3.0]),
    6: ([1, 1, 1, 0], [2.0, 2.0]),
}
RANGE = {"kind": "float", "low": 0.0, "high": 1.0, "log": False, "choices": []}
DIMENSIONS = [{"name": f"models[left].weight[{i}]", **RANGE} for i in (0, 1)]


def recipe(weight=0.5):
    return {
        "merge_method": "task_arithmetic",
        "base_model": "/zoo/base",
        "models": [
            {"model": "/zoo/left", "parameters": {"weight": [0.25, 0.75]}},
            {"model": "/zoo/right", "parameters": {"weight": weight}},
        ],
        "dtype": "float32",
    }


def study(**changes):
    config = {
        "base_model": "/zoo/base",
        "models": ["/zoo/left", "/zoo/right"],
        "space": "by_depth",
        "evaluate": {
            "tasks": ["quiz", "text"],
            "fitness": "smooth",
            "items": {"per_generation": 2},
        },
        "search": {"optimizer": "random", "trials": 4, "seed": 7},
        "workers": {"count": 2},
        "output": {"dtype": "bfloat16", "save_model": True},
    }
    event = {
        "event": "study",
        "version": "0.1.0",
        "config": config,
        "space": {"merge_method": "task_arithmetic"},
        "dimensions": DIMENSIONS,
        "protocol": "p" * 64,
        "fingerprints": {"/zoo/base": "b" * 64, "/zoo/left": "l" * 64, "/zoo/right": "r" * 64},
        "parameters": 1000,
        "layers": 3,
        "device": "cpu",
        "tasks": TASKS,
        "pools": {"search": SEARCH, "race": RACE, "holdout": HOLDOUT},
        "warnings": [],
        "lm_eval_loads": True,
        "time": 1001.0,
    }
    return event | changes


def asked(numbers, generation=None, items=None):
    trials = [
        {
            "trial": n,
            "kind": KINDS[n],
            "name": NAMES[n],
            "generation": generation,
            "index": i,
            "point": [0.25, 1.0] if KINDS[n] == "trial" else None,
            "recipe": recipe(n / 10),
            "digest": f"d{n}",
        }
        for i, n in enumerate(numbers)
    ]
    return {"event": "asked", "trials": trials, "items": items, "time": 1002.0}


def outcomes(n, phase, mode, rows, time, worker="0"):
    return {
        "event": "outcomes",
        "trial": n,
        "phase": phase,
        "digest": f"d{n}",
        "mode": mode,
        "rows": rows,
        "seconds": {"build": 1.0, "forward": 2.0, "total": 4.0},
        "worker": worker,
        "time": time,
    }


def smooth_rows(value, items):
    return [[task, i, None, value, 0, 1] for task, ids in items.items() for i in ids]


def metric_rows(items, quiz, text, truncated=0, extracted=1):
    values = {"quiz": quiz, "text": text}
    return [
        [task, i, float(value), None, truncated, extracted]
        for task, ids in items.items()
        for i, value in zip(ids, values[task], strict=True)
    ]


def told_event(generation, numbers, fitness, reference):
    return {
        "event": "told",
        "generation": generation,
        "trials": numbers,
        "fitness": fitness,
        "reference": {"trial": 3, "fitness": reference},
        "correlation": 0.75,
        "time": 1060.0,
    }


def raced(rung, alive, out, scores, winner):
    return {
        "event": "raced",
        "rung": rung,
        "alive": alive,
        "out": out,
        "scores": {str(n): score for n, score in scores.items()},
        "winner": winner,
        "contenders": [3, 6, 7],
        "time": 1100.0,
    }


def verdict():
    return {
        "event": "verdict",
        "winner": {"kind": "trial", "trial": 6, "digest": "d6", "name": "trial 6"},
        "race_winner": {"kind": "trial", "trial": 6, "digest": "d6", "name": "trial 6"},
        "improvement_shown": True,
        "sentence": "Improvement shown: trial 6 scores +0.3125 [-0.100, +0.700]; 95 % intervals.",
        "scores": {"winner": {"quiz": 0.75, "text": 2.0}},
        "comparisons": [
            {
                "against": "uniform average",
                "kind": "anchor",
                "trial": 3,
                "difference": 0.3125,
                "low": 0.0321,
                "high": 0.7654,
                "wins": 2,
                "losses": 0,
                "ties": 4,
                "items": 6,
            }
        ],
        "confidence": 0.95,
        "note": "Differences are paired.",
        "reproduce": "lm_eval --model hf --samples '{\"quiz\":[20]}'",
        "time": 1140.0,
    }


def events():
    """The whole journal, from the check to the export."""
    samples = [
        {"event": "opened", "token": "t", "pid": 1, "host": "h", "time": 1000.0},
        study(),
        asked([0, 1, 2, 3], None, SEARCH),
    ]
    for n in range(4):
        samples.append(outcomes(n, "anchors", "smooth", smooth_rows(0.5, SEARCH), 1010.0 + 4 * n))
        rows = metric_rows(SEARCH, ANSWERS[n][0][:2], ANSWERS[n][1][:1])
        samples.append(outcomes(n, "anchors", "metric", rows, 1030.0 + n, "1"))
    for generation, numbers in enumerate(([4, 5], [6, 7])):
        samples.append(asked(numbers, generation, SEARCH))
        samples += [
            outcomes(n, "search", "smooth", smooth_rows(0.6, SEARCH), 1040.0 + n) for n in numbers
        ]
        fitness = [0.625, None] if generation == 0 else [0.875, 0.65]
        samples.append(told_event(generation, numbers, fitness, 0.6))
    failed = {"event": "failed", "trial": 5, "phase": "search", "kind": "oom", "time": 1050.0}
    samples.insert(-4, {**failed, "message": "out of memory"})
    samples.append(
        {"event": "search_ended", "reason": "trials", "trials": 4, "wanted": 4, "time": 1061.0}
    )
    half = {"quiz": [10, 11], "text": [10]}
    rest = {"quiz": [12, 13], "text": [11]}
    for n, right in ((3, 1), (6, 1), (7, 0)):
        rows = metric_rows(half, [right, 1], [3.0])
        samples.append(outcomes(n, "race", "metric", rows, 1070.0 + n))
    samples.append(raced(0, [3, 6], [7], {3: 0.25, 6: 0.375, 7: -0.125}, None))
    for n, right in ((3, 0), (6, 1)):
        rows = metric_rows(rest, [right, 1], [3.0])
        samples.append(outcomes(n, "race", "metric", rows, 1080.0 + n))
    samples.append(raced(1, [3, 6], [], {3: -0.1875, 6: 0.0}, 6))
    for n, (quiz, text) in ANSWERS.items():
        rows = metric_rows(HOLDOUT, quiz, text, truncated=int(n == 0), extracted=int(n != 1))
        samples.append(outcomes(n, "verdict", "metric", rows, 1110.0 + 4 * n))
    done = {"event": "exported", "trial": 6, "model": "best/model", "weights_digest": "w" * 64}
    return [*samples, verdict(), {**done, "time": 1150.0}]


def write(folder, sections=None):
    """Write events as a run folder's journal, as a study would."""
    folder.mkdir(exist_ok=True, parents=True)
    with (folder / "journal.log").open("wb") as file:
        for event in [
            {"event": "journal", "format": 1},
            *(events() if sections is None else sections),
        ]:
            payload = json.dumps(event, separators=(",", ":")).encode("ascii")
            file.write(b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload))
    return folder
