"""Says where a study's bytes lie, whether they fit, and what to do if they do not."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from evomerge.report.numbers import size
from evomerge.study.analysis.memory_plan import MemoryPlan
from evomerge.study.config import StudyConfig
from evomerge.study.workers.devices import ROOM, parents_stay, streams

NOT_OFFERED = "not offered are parents as int8 deltas"
COPIED = 10e9  # bytes a second from mapped files to a GPU, about
READ = 5e9  # bytes a second from a fast disk


def memory_here() -> int:
    """Return the bytes of a GPU, if this process sees one, or of main memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_lines(plan: MemoryPlan, config: StudyConfig, memory: int) -> list[tuple[str, str]]:
    """Say what is held where, whether it fits, and what to do if not.

    Args:
        plan: The plan.
        config: The study.
        memory: Bytes of one GPU, or of the machine where there is none; 0 where nobody knows.

    Returns:
        Pairs of a word and a sentence.
    """
    workers = config.workers
    here = memory * max(1, math.floor(workers.gpus)) or 2**60
    if streams(plan.live, here, workers):
        return [*_streamed(plan, memory), _disk(plan)]
    each = f"{size(plan.live)} live model, up to {size(plan.batch)} logits"
    if plan.gradient:
        each += f", {size(plan.gradient)} gradient"
    if plan.recalled:
        each += f", {size(plan.recalled)} of products"
    if plan.making:
        each += f" (before the search {size(plan.making)} to run a parent on its rows)"
    if plan.is_shared:
        needed, has = plan.total(workers.least), memory
        text = f"each worker {each}; base and parents {size(plan.parents)} once, mapped from files"
        most = _most(plan, memory)
        remedy = f"set workers.count to {most} or a smaller evaluate.batch_size"
    else:
        per_gpu = max(1, round(1 / workers.gpus)) if 0 < workers.gpus < 1 else 1
        has = memory * max(1, math.floor(workers.gpus))
        text = f"{each}, base and parents {size(plan.parents)}"
        if plan.computed:
            text += f" ({plan.computed} adapters as whole models)"
        if not parents_stay(plan.parents, plan.live, has or 2**60, workers):
            text += (
                f" in main memory, copied for each candidate in about {plan.parents / COPIED:.2g} s"
            )
            plan = replace(plan, parents=plan.tile)
        needed = plan.total(per_gpu)
        gpus = math.ceil(plan.total(1) / (ROOM * memory)) if memory else 0
        remedy = f"workers.gpus: {gpus} holds one worker's over {gpus} GPUs"
    rows = [("memory", f"{text}: {size(needed)}" + f" of {size(has)}" * bool(has))]
    if has and needed > ROOM * has:
        rows.append(("warning", f"that does not fit: {remedy}; {NOT_OFFERED}"))
    return [*rows, _disk(plan)]


def _streamed(plan: MemoryPlan, memory: int) -> list[tuple[str, str]]:
    """Say what a worker holds that makes candidates layer by layer, and what one costs."""
    needed = plan.layers + plan.tile + plan.batch
    text = (
        f"a candidate's {size(plan.live)} are streamed: up to {size(plan.layers)} of it at a time, "
        f"{size(plan.tile)} of one tensor's parents, {size(plan.batch)} logits, and the states of "
        f"all items: {size(needed)}" + f" of {size(memory)}" * bool(memory)
    )
    cost = (
        f"each request reads {size(plan.parents)} of base and parents: "
        f"{plan.parents / READ:.2g} s at {READ / 1e9:.0f} GB/s from disk, "
        f"{plan.parents / COPIED:.2g} s at {COPIED / 1e9:.0f} GB/s where main memory holds them"
    )
    rows = [("memory", text), ("streamed", cost)]
    if memory and needed > ROOM * memory:
        rows.append(("warning", "that does not fit: set a smaller evaluate.batch_size"))
    return rows


def _disk(plan: MemoryPlan) -> tuple[str, str]:
    """Say what is written."""
    disk = f"{size(plan.disk)} for best/model" if plan.disk else "the recipe alone"
    cached = f"up to {size(plan.cache)} of rankings by magnitude"
    if plan.statistics:
        cached += f" and {size(plan.statistics)} of what models' rows say"
    return "disk", f"{disk}; {cached}, in the cache"


def _most(plan: MemoryPlan, memory: int) -> int:
    """Return how many workers fit, at least one."""
    return max(1, int((ROOM * memory - plan.parents) // plan.each))
