"""The spaces that are searched, all of them task arithmetic: 4, 20, 60, 80 and 224 dimensions."""

from pathlib import Path

from evomerge.recipe.space.space import SearchSpace

LOW, HIGH = -0.25, 1.5  # of every weight, as in search_spaces/task_arithmetic_by_depth.yaml


def bound_space(
    name: str, base: str, models: list[str], low: float = LOW, high: float = HIGH
) -> SearchSpace:
    """One of the spaces, bound to a zoo.

    A weight per model; at five depths; and apart for attention, MLP and the rest. And those that
    gradients search: a weight per model and component of a layer, or tensor; and one with methods
    to choose and densities, which have no gradient.
    """

    def weights(knots: int | None) -> list[dict]:
        hole = {"low": low, "high": high, "initial": 0.4} | ({"knots": knots} if knots else {})
        return [{"model": "*", "parameters": {"weight": dict(hole)}}]

    plain = {"merge_method": "task_arithmetic", "dtype": "float32"}
    apart = [
        {"components": ["attention"], "models": weights(6)},
        {"components": ["mlp"], "models": weights(6)},
    ]
    documents = {
        "global": {**plain, "models": weights(None)},
        "depth": {**plain, "models": weights(5)},
        "parts": {**plain, "models": weights(3), "blocks": apart},
    }
    finer = {per: f"task_arithmetic_by_{per}" for per in ("component", "tensor")}
    made = {name: SearchSpace.from_dict(document, name) for name, document in documents.items()}
    made |= {per: SearchSpace.from_yaml(name) for per, name in finer.items()}
    made["soup"] = SearchSpace.from_yaml("learned_soup")
    made["mixed"] = SearchSpace.from_yaml("mixed_methods")
    if name in ("line", "curve"):  # between the first expert and the last one
        bends = [f"{letter}{j}" for letter in "ab" for j in range(1, 6)] if name == "curve" else []
        parameters = {"t": {"low": 0, "high": 1, "initial": 0.5, "per": "component"}}
        parameters |= {bend: {"low": -1, "high": 1, "per": "component"} for bend in bends}
        document = {"merge_method": "curve", "base_model": models[0], "models": [models[-1]]}
        document |= {"parameters": parameters, "dtype": "float32"}
        return SearchSpace.from_dict(document, name).bind(models[0], [models[-1]], "float32")
    return made[name].bind(base, models, "float32")


def parents(zoo: Path) -> tuple[str, list[str]]:
    """The base and the experts of a zoo, in the order in which all spaces have their weights."""
    return str(zoo / "base"), [str(path) for path in sorted(zoo.glob("expert-*"))]
