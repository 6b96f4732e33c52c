import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.errors import UserError
from evomerge.study.statistics.pools import POOLS, clusters, generation_items, split, together

SHARES = {"search": 0.5, "race": 0.2, "holdout": 0.3}


def keys(n, prefix="doc"):
    return [f"{prefix} {i}" for i in range(n)]


def test_pools_are_disjoint_cover_every_item_and_have_the_rounded_sizes():
    pools = split({"a": keys(200, "a"), "b": keys(33, "b")}, SHARES, seed=0)
    assert {pool: len(pools[pool]["a"]) for pool in POOLS} == {
        "search": 100,
        "race": 40,
        "holdout": 60,
    }
    # 33 items: shares 16.5, 6.6, 9.9; the two largest remainders are rounded up
    assert [len(pools[pool]["b"]) for pool in POOLS] == [16, 7, 10]
    for task, n in {"a": 200, "b": 33}.items():
        assert sorted(i for pool in POOLS for i in pools[pool][task]) == list(range(n))


def test_shares_below_one_leave_items_unused():
    pools = split({"a": keys(100)}, {"search": 0.2, "race": 0.1, "holdout": 0.1}, seed=0)
    assert [len(pools[pool]["a"]) for pool in POOLS] == [20, 10, 10]


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    tasks = {"b": keys(50, "b"), "a": keys(50, "a")}
    pools = split(tasks, SHARES, seed=1)
    assert split(dict(reversed(tasks.items())), SHARES, seed=1) == pools
    assert split({"a": tasks["a"]}, SHARES, seed=1)["race"]["a"] == pools["race"]["a"]
    assert split(tasks, SHARES, seed=2) != pools


def test_another_process_with_another_string_hash_draws_the_same():
    code = (
        "from evomerge.study.statistics.pools import split, generation_items\n"
        "pools = split({'a': [f'doc {i}' for i in range(50)]},"
        " {'search': 0.5, 'race': 0.2, 'holdout': 0.3}, 3)\n"
        "print(pools, generation_items(pools['search'], 5, 3, 2))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in (1, 2)
    }
    pools = split({"a": keys(50)}, SHARES, 3)
    assert outputs == {f"{pools} {generation_items(pools['search'], 5, 3, 2)}\n"}


def test_identical_documents_share_a_pool_within_and_across_tasks():
    a = keys(40) + keys(10)  # documents 0..9 are there twice
    b = keys(60, "b") + keys(20)  # and half of task a is part of task b
    for seed in range(20):
        pools = split({"a": a, "b": b}, SHARES, seed)
        content = {
            pool: {
                key for task, key_list in {"a": a, "b": b}.items()
                for i in pools[pool][task] for key in [key_list[i]]
            }
            for pool in POOLS
        }  # fmt: skip
        for one, other in combinations(POOLS, 2):
            assert not content[one] & content[other]
        assert sum(len(pools[pool]["a"]) for pool in POOLS) == 50
        assert sum(len(pools[pool]["b"]) for pool in POOLS) == 80


@given(
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
    st.integers(0, 2**32),
)
def test_whatever_the_duplicates_no_content_is_in_two_pools_and_no_item_is_lost(a, b, seed):
    tasks = {"a": list(map(str, a)), "b": list(map(str, b))}
    try:
        pools = split(tasks, SHARES, seed)
    except UserError:
        return  # so few distinct documents that a pool is empty
    for task, task_keys in tasks.items():
        assert sorted(i for pool in POOLS for i in pools[pool][task]) == list(range(len(task_keys)))
    where = {
        (key, pool)
        for task, task_keys in tasks.items()
        for pool in POOLS
        for i in pools[pool][task]
        for key in [task_keys[i]]
    }
    assert len(where) == len({key for key, _ in where})


def test_every_item_is_as_likely_in_each_pool():
    count = [0] * 10
    for seed in range(400):
        for i in split({"a": keys(10)}, SHARES, seed)["search"]["a"]:
            count[i] += 1
    # Binomial(400, 1/2): standard deviation 10; four of them either way
    assert all(160 <= times <= 240 for times in count)


def test_an_empty_pool_names_the_task_and_the_remedy():
    with pytest.raises(UserError, match=r"task a: its 2 items .* 'race' empty .*items\.race"):
        split({"a": keys(2)}, SHARES, seed=0)
    with pytest.raises(UserError, match="1 distinct"):
        split({"a": ["same"] * 9}, SHARES, seed=0)


@pytest.mark.parametrize(
    "shares",
    [
        {"search": 0.5, "race": 0.5},
        {**SHARES, "race": 0.0},
        {**SHARES, "race": -0.1},
        {**SHARES, "race": float("nan")},
        {**SHARES, "race": 0.4},
        {**SHARES, "spare": 0.1},
    ],
)
def test_shares_that_make_no_split_are_refused(shares):
    with pytest.raises(UserError, match=r"evaluate\.items"):
        split({"a": keys(100)}, shares, seed=0)


def test_generations_draw_anew_deterministically_and_nested_in_size():
    pool = split({"a": keys(100, "a"), "b": keys(20, "b")}, SHARES, seed=0)["search"]
    drawn = [generation_items(pool, 8, seed=0, generation=g) for g in range(5)]
    assert drawn == [generation_items(pool, 8, seed=0, generation=g) for g in range(5)]
    assert len({tuple(items["a"]) for items in drawn}) == 5
    for items in drawn:
        assert len(set(items["a"])) == 8
        assert set(items["a"]) <= set(pool["a"])
    more = generation_items(pool, 16, seed=0, generation=0)
    assert more["a"][:8] == drawn[0]["a"]
    assert len(more["b"]) == 10  # all that task b has
    assert generation_items(pool, 8, seed=1, generation=0) != drawn[0]
    with pytest.raises(UserError, match="per_generation must be at least 1"):
        generation_items(pool, 0, seed=0, generation=0)


def test_documents_of_one_cluster_or_of_equal_content_belong_together_and_fall_in_one_pool():
    passages = [f"passage {i // 5}" for i in range(200)]
    evaluation = {
        "item_keys": {"a": keys(200, "a"), "b": [*keys(9, "b"), "a 0"]},
        "cluster_keys": {"a": passages},
    }
    joined = together(evaluation)
    assert len(set(joined["a"])) == 40
    assert all(len({*joined["a"][i : i + 5]}) == 1 for i in range(0, 200, 5))
    assert joined["b"][9] == joined["a"][0]  # the same document in another task
    assert joined["b"][:9] == keys(9, "b")
    pools = split(joined, SHARES, seed=0)
    for pool in pools.values():
        assert {i // 5 * 5 + j for i in pool["a"] for j in range(5)} == set(pool["a"])
    numbers = clusters(joined, {pool: pools[pool] for pool in ("race", "holdout")})
    judged = [*pools["race"]["a"], *pools["holdout"]["a"]]
    assert sorted(numbers["a"]) == sorted(judged)
    assert {numbers["a"][i] == numbers["a"][j] for i in judged for j in judged if i // 5 == j // 5}
    assert len(set(numbers["a"].values())) == len(judged) / 5


def test_what_two_clusters_have_in_common_joins_them_and_what_stands_alone_has_no_number():
    evaluation = {
        "item_keys": {"a": ["x", "y", "z"], "b": ["y", "w"]},
        "cluster_keys": {"a": ["p", "p", "q"], "b": ["r", "r"]},
    }
    joined = together(evaluation)
    assert len({*joined["a"][:2], *joined["b"]}) == 1
    assert joined["a"][2] not in joined["b"]
    numbers = clusters(joined, {"holdout": {"a": [0, 2], "b": [1]}})
    assert numbers == {"a": {0: 0}, "b": {1: 0}}
    assert clusters(joined, {"race": {"a": [0, 2]}, "holdout": {"b": [1]}}) == {}
    assert together({"item_keys": {"a": ["x", "x"]}}) == {"a": ["x", "x"]}
