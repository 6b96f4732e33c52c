"""Methods of mergekit 0.1.5, at settings of their own, run by mergekit on what we export."""

import pytest
import torch

from tests.models import make_family
from tests.peer.both import different, entries, merged_by_both, needs_mergekit, recipes_of
from tests.peer.recipes import ATTENTION, MLP

pytestmark = needs_mergekit
BY_DEPTH = {"a": [0.2, 0.9], "b": [{"filter": MLP, "value": 0.7}, {"value": [0.5, 0.1, 0.6]}]}
THREE = {"a": 0.5, "b": 0.3, "c": [0.9, 0.2]}


def of(method, models, base="base", **parameters):
    document = {"merge_method": method, "models": models, "parameters": parameters}
    return {**document, **({"base_model": base} if base else {})}


RECIPES = {
    "nuslerp": of("nuslerp", entries(BY_DEPTH)),
    "nuslerp without a base": of("nuslerp", entries(BY_DEPTH), base=None),
    "nuslerp by rows": of("nuslerp", entries(BY_DEPTH), nuslerp_flatten=False),
    "nuslerp by columns": of(
        "nuslerp", entries(BY_DEPTH), None, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "multislerp": of("multislerp", entries(THREE)),
    "multislerp without a base": of(
        "multislerp", entries(THREE), None, normalize_weights=False, eps=1e-7
    ),
    "karcher": of("karcher", ["a", "b", "c"], base=None),
    "karcher with the base among the models": of("karcher", ["a", "base", "c"], max_iter=3),
    "breadcrumbs": of(
        "breadcrumbs", entries(THREE, density=[0.9, 0.4], gamma=0.03), **{"lambda": 0.8}
    ),
    "breadcrumbs rescaled": of(
        "breadcrumbs", entries(BY_DEPTH, density=0.4, gamma=0.1), rescale=True, normalize=True
    ),
    "breadcrumbs ties": of("breadcrumbs_ties", entries(THREE, density=[0.9, 0.4], gamma=0.03)),
    "sce": of("sce", ["a", "b", "c"]),
    "sce of a part": of("sce", ["a", "b", "c"], select_topk=[0.8, 0.2]),
    "ram": of("ram", ["a", "b", "c"], epsilon=0.05),
    "ramplus": of("ramplus_tl", ["a", "b", "c"], epsilon=0.05, r=[0.2, 0.8], alpha=0.9),
    "nearswap": of("nearswap", ["b"], t=[{"filter": ATTENTION, "value": 0.05}, {"value": 0.01}]),
    "arcee fusion": of("arcee_fusion", ["b"]),
    "linear in float64": {**of("linear", entries(BY_DEPTH), None), "dtype": "float64"},
    "ties in float64": {**of("ties", entries(THREE, density=[0.9, 0.4])), "dtype": "float64"},
    "slerp in float64": {**of("slerp", ["b"], t=[0.2, 0.7]), "dtype": "float64"},
    "nuslerp in float64": {**of("nuslerp", entries(BY_DEPTH)), "dtype": "float64"},
    "rescaled in float64": {
        **of("breadcrumbs", entries(BY_DEPTH, density=0.4, gamma=0.1), rescale=True),
        "dtype": "float64",
    },
    "written in float64": {**of("ties", entries(THREE, density=0.6)), "out_dtype": "float64"},
    "blocks of nuslerp without a base": {
        **of("nuslerp", entries(BY_DEPTH), base=None),
        "blocks": [{"layers": [1, 3], "components": "mlp", "models": entries({"a": 0.8})}],
    },
    "many methods": {
        **of("breadcrumbs_ties", entries(BY_DEPTH, density=0.6), gamma=0.05),
        "blocks": [
            {"components": "attention", "merge_method": "nuslerp"},
            {"components": "mlp", "layers": [0, 2], "merge_method": "karcher"},
            {"components": "mlp", "merge_method": "sce", "parameters": {"select_topk": 0.5}},
            {"components": "norm", "merge_method": "multislerp"},
            {"components": "head", "merge_method": "ram"},
        ],
    },
}


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    """Every recipe merged by both: {name: (our folder, mergekit's, its problem)}."""
    torch.set_num_threads(1)  # more would add up a norm in another order
    top = tmp_path_factory.mktemp("methods")
    folders = make_family(top / "family", names="abc", layers=4)
    return merged_by_both(recipes_of(RECIPES, folders), top)


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_makes_the_same_tensors(merges, name):
    ours, theirs, problem = merges[name]
    assert problem is None, problem
    assert not different(ours, theirs)
