"""Shares items out to pools: one to search on, one to race on, one kept for the verdict.

Every draw is a seeded hash, so it depends on nothing but the seed and the item: not on the order
of tasks or workers, nor on Python's own hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.core.errors import UserError, unknown

POOLS = ("search", "race", "holdout")
Items = dict[str, list[int]]  # task -> doc ids


def together(evaluation: Mapping[str, Any]) -> dict[str, list[str]]:
    """Give every document of each task a key; equal keys belong together, within and across tasks.

    So do documents of the same content, those that a task's `cluster` joins, and what both of
    these connect.

    Args:
        evaluation: A worker's description: ``item_keys`` by task, and ``cluster_keys`` of some.
    """
    item_keys, cluster_keys = evaluation["item_keys"], evaluation.get("cluster_keys") or {}
    leader: dict[str, str] = {}

    def first(key: str) -> str:
        while leader.get(key, key) != key:
            key = leader[key]
        return key

    for task, clusters in cluster_keys.items():
        for key, cluster in zip(item_keys[task], clusters, strict=True):
            leader[first(key)] = first(cluster)
    return {task: [first(key) for key in keys] for task, keys in item_keys.items()}


def clusters(
    keys: Mapping[str, Sequence[str]], pools: Mapping[str, Items]
) -> dict[str, dict[int, int]]:
    """Number the clusters of two items or more in each pool; by task and item.

    Args:
        keys: For each task the key of every document, from `together`.
        pools: From `split`.
    """
    numbers: dict[str, dict[int, int]] = {}
    first = 0
    for items in pools.values():
        sizes = Counter(keys[task][i] for task, ids in items.items() for i in ids)
        shared = [key for key, size in sizes.items() if size > 1]
        number = {key: first + i for i, key in enumerate(shared)}
        first += len(shared)
        for task, ids in items.items():
            of_task = {i: number[key] for i in ids if (key := keys[task][i]) in number}
            if of_task:
                numbers.setdefault(task, {}).update(of_task)
    return numbers


def split(
    item_keys: Mapping[str, Sequence[str]],
    fractions: Mapping[str, float],
    seed: int,
    whole: Mapping[str, str] | None = None,
) -> dict[str, Items]:
    """Split each task's items into disjoint pools of exactly the rounded sizes.

    Items are sorted by hash(seed, key) and cut; so a pool's order is itself random, and any prefix
    of it is a fair sample. Documents with the same key (the same content or cluster), within a task
    or across tasks, fall in the same pool: what is searched on is never part of the verdict. Only
    these can make a pool larger or smaller than its share.

    Args:
        item_keys: For each task the key of every document, by doc id 0, 1, 2, …; see `together`.
        fractions: The share of ``search``, ``race`` and ``holdout``; what they leave is unused.
        seed: The study's seed.
        whole: Tasks that belong to one pool with all their items, and which.

    Returns:
        ``{pool: {task: doc ids}}``.

    Raises:
        UserError: A share is not in (0, 1], they add up to more than 1, a pool would be empty, or
            tasks of different pools have documents in common.
    """
    check_shares(fractions)
    pools, pool_of = _whole(item_keys, seed, whole or {})
    for task in sorted(item_keys.keys() - (whole or {}).keys()):
        keys = item_keys[task]
        room = _sizes(len(keys), fractions)
        hashes = [_hash(seed, key) for key in keys]
        ids = sorted(range(len(keys)), key=hashes.__getitem__)
        groups: dict[str, list[int]] = {}
        for i in ids:
            groups.setdefault(keys[i], []).append(i)
        for key, group in groups.items():  # first what another task has already placed
            if key in pool_of:
                room[pool_of[key]] -= len(group)
        for key, group in groups.items():
            if key not in pool_of:
                pool_of[key] = next((pool for pool in room if room[pool] > 0), None)
                room[pool_of[key]] -= len(group)
        for pool in POOLS:
            chosen = [i for i in ids if pool_of[keys[i]] == pool]
            if not chosen:
                raise UserError(
                    f"task {task}: its {len(keys)} items ({len(groups)} distinct) leave the pool "
                    f"'{pool}' empty at a share of {fractions[pool]}: raise evaluate.items.{pool} "
                    "or give the task more documents"
                )
            pools[pool][task] = chosen
    for pool, tasks in pools.items():
        if not tasks:
            raise UserError(f"evaluate.items: no task is left for the pool '{pool}'")
    return pools


def _whole(
    item_keys: Mapping[str, Sequence[str]], seed: int, whole: Mapping[str, str]
) -> tuple[dict[str, Items], dict[str, str | None]]:
    """Return pools with the tasks that belong to one alone, and the pool of each of their keys."""
    pools: dict[str, Items] = {pool: {} for pool in POOLS}
    pool_of: dict[str, str | None] = {}  # by key, None for unused
    first: dict[str, str] = {}  # the task in which a key appears first
    for task, pool in whole.items():
        if task not in item_keys:
            raise UserError(f"evaluate.items.{pool}_tasks: {unknown('task', task, item_keys)}")
        keys = item_keys[task]
        for key in keys:
            other = first.setdefault(key, task)
            if pool_of.setdefault(key, pool) != pool:
                same = len(set(keys) & set(item_keys[other]))
                raise UserError(
                    f"evaluate.items: task {task} is for the pool '{pool}' and {other} for "
                    f"'{pool_of[key]}', but they have {same} documents in common"
                )
        hashes = [_hash(seed, key) for key in keys]
        pools[pool][task] = sorted(range(len(keys)), key=hashes.__getitem__)
    return pools, pool_of


def generation_items(
    pool: Mapping[str, Sequence[int]],
    per_generation: int,
    seed: int,
    generation: int,
    answers_of: Mapping[str, str] | None = None,
) -> Items:
    """Draw the items that all candidates of one generation share, anew for each, by task.

    Args:
        pool: The search pool, ``{task: doc ids}``.
        per_generation: Items of each task; a smaller task gives all that it has.
        seed: The study's seed.
        generation: Counted from 0. The same numbers give the same items on every machine.
        answers_of: Tasks that look at the answers to another one, and so have the same items.

    Returns:
        ``{task: doc ids}``, a prefix of one seeded order: fewer items are a subset of more.
    """
    if per_generation < 1:
        raise UserError(
            f"evaluate.items.per_generation must be at least 1, but got {per_generation}"
        )
    drawn_as = answers_of or {}
    return {
        task: _shuffled(ids, seed, generation, drawn_as.get(task, task))[:per_generation]
        for task, ids in pool.items()
    }


def check_shares(fractions: Mapping[str, float]) -> None:
    """Refuse shares that are not in (0, 1], or add up to more than 1.

    Raises:
        UserError: Names the share.
    """
    if set(fractions) != set(POOLS):
        raise UserError(
            f"evaluate.items: expected shares for {', '.join(POOLS)}, "
            f"but got {', '.join(fractions) or 'none'}"
        )
    for pool, share in fractions.items():
        if not 0 < share <= 1:
            raise UserError(f"evaluate.items.{pool} must be a share in (0, 1], but got {share}")
    if sum(fractions.values()) > 1 + 1e-9:
        raise UserError(
            "evaluate.items: the shares must add up to at most 1, or the pools would overlap, "
            f"but got {dict(fractions)}"
        )


def _sizes(total: int, fractions: Mapping[str, float]) -> dict[str | None, int]:
    """Return whole sizes nearest to the shares, adding up to `total` (None: unused)."""
    shares: dict[str | None, float] = {pool: fractions[pool] * total for pool in POOLS}
    shares[None] = max(0.0, total - sum(shares.values()))
    sizes = {pool: int(share + 1e-9) for pool, share in shares.items()}
    by_rest = sorted(sizes, key=lambda pool: sizes[pool] - shares[pool])  # largest remainder first
    for pool in by_rest[: total - sum(sizes.values())]:
        sizes[pool] += 1
    return sizes


def _shuffled(ids: Iterable[int], seed: int, generation: int, task: str) -> list[int]:
    return sorted(ids, key=lambda i: _hash(seed, generation, task, i))


def _hash(seed: int, *parts: object) -> bytes:
    """Hash parts: equal parts give equal bytes, on every machine and in every process."""
    words = [str(seed), *map(str, parts)]
    text = "".join(f"{len(word)}:{word}" for word in words)  # no two lists give the same text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
