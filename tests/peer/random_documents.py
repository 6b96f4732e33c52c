"""Random mergekit configurations, as plain data: every method, form, scope, filter and gradient.

Models are named base, a, b, c, and have equally many layers. Everything follows from the seed. What
mergekit leaves to chance is not there: where masks are random, densities are 1.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Value = Callable[[random.Random], Any]

FILTERS = (
    *("self_attn", "mlp", "norm", "embed", "lm_head", "layers.1.", "layers.2.mlp", "q_proj"),
    *("down_proj", "model.norm", "weight", "attn", "wte", "c_fc", "ln_", "nowhere", "*", None),
)


def between(low: float, high: float, *others: Any) -> Value:
    """A number of three digits, or now and then one of the others."""

    def draw_one(draw: random.Random) -> Any:
        drawn = round(draw.uniform(low, high), 3)
        return draw.choice(others) if others and draw.random() < 0.4 else drawn

    return draw_one


def one_of(*values: Any) -> Value:
    return lambda draw: draw.choice(values)


@dataclass(frozen=True)
class Kind:
    """What a method takes: models besides the base, and how values are drawn.

    Attributes:
        models: Fewest and most.
        base: ``no``, ``maybe`` or ``yes``.
        per_model: Parameters that each model has.
        shared: Parameters that hold for all.
        merges_base: Whether a base is one more model.
    """

    models: tuple[int, int]
    base: str
    per_model: dict[str, Value] = field(default_factory=dict)
    shared: dict[str, Value] = field(default_factory=dict)
    merges_base: bool = False


SWITCH = one_of(True, False, 1.0, 0.0, 1, 0)
WEIGHT = {"weight": between(0.05, 1.2, 1)}
SIGNED = {"weight": between(-0.3, 1.2, 0)}
DENSITY = {"density": between(0.05, 1.0, 1, 0.5, 0)}
WHOLE = {"density": one_of(1.0, 1)}
GAMMA = {"gamma": between(0.0, 0.3, 0.01, 0)}
EPSILON = {"epsilon": between(0.01, 0.2)}
SUM = {"lambda": between(0.2, 1.5), "int8_mask": SWITCH}
MEAN = {**SUM, "normalize": SWITCH, "rescale": SWITCH}
SMALL = {"epsilon": one_of(1e-5, 0.01, 0.05, "1e-2")}

METHODS = {
    "linear": Kind((1, 3), "maybe", WEIGHT, {"normalize": SWITCH}, merges_base=True),
    "slerp": Kind((1, 1), "yes", {}, {"t": between(0.0, 1.0, 0, 1)}),
    "nuslerp": Kind(
        (2, 2), "maybe", WEIGHT, {"nuslerp_flatten": SWITCH, "nuslerp_row_wise": SWITCH}
    ),
    "multislerp": Kind((1, 3), "maybe", WEIGHT, {"normalize_weights": SWITCH}),
    "karcher": Kind((1, 3), "maybe", {}, {"max_iter": one_of(1, 2, 10)}, merges_base=True),
    "task_arithmetic": Kind((1, 3), "yes", {**SIGNED, **WHOLE}, SUM),
    "ties": Kind((1, 3), "yes", {**WEIGHT, **DENSITY}, MEAN),
    "dare_linear": Kind((1, 3), "yes", {**SIGNED, **WHOLE}, {**SUM, "rescale": SWITCH}),
    "dare_ties": Kind((1, 3), "yes", {**SIGNED, **WHOLE}, {**SUM, "rescale": SWITCH}),
    "della": Kind((1, 3), "yes", {**WEIGHT, **WHOLE, **EPSILON}, MEAN),
    "della_linear": Kind((1, 3), "yes", {**WEIGHT, **WHOLE, **EPSILON}, MEAN),
    "breadcrumbs": Kind((1, 3), "yes", {**WEIGHT, **DENSITY, **GAMMA}, MEAN),
    "breadcrumbs_ties": Kind((1, 3), "yes", {**WEIGHT, **DENSITY, **GAMMA}, MEAN),
    "sce": Kind((1, 3), "yes", {}, {"select_topk": between(0.05, 1.0, 1), "int8_mask": SWITCH}),
    "ram": Kind((1, 3), "yes", {}, SMALL),
    "ramplus_tl": Kind(
        (1, 3), "yes", {}, {**SMALL, "r": between(0.0, 0.5), "alpha": between(0.0, 0.5)}
    ),
    "model_stock": Kind((2, 3), "yes", {}, {"filter_wise": SWITCH}),
    "nearswap": Kind((1, 1), "yes", {}, {"t": one_of(0.001, 0.01, 0.05)}),
    "arcee_fusion": Kind((1, 1), "yes"),
    "passthrough": Kind((1, 1), "no", {"scale": between(0.1, 1.5)}),
}
TRIMMING = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")  # keep the largest of a tensor


class Generator:
    """Draws one configuration over models of `layers` layers; `stacks` says whether by slices."""

    def __init__(self, seed: int, method: str, layers: int, *, stacks: bool = True):
        self.draw = random.Random(seed)
        self.kind, self.method = METHODS[method], method
        self.layers, self.stacks = layers, stacks

    def document(self) -> dict[str, Any]:
        """A few lack what their method needs, which mergekit has to refuse too."""
        draw, kind = self.draw, self.kind
        form = draw.choice(["models", "slices", "module"] if self.stacks else ["models", "module"])
        self.models = draw.sample(["a", "b", "c"], draw.randint(*kind.models))
        self.base = kind.base == "yes" or (kind.base == "maybe" and draw.random() < 0.5)
        if self.base and (form != "models" or draw.random() < 0.5):
            self.models.insert(draw.randint(0, len(self.models)), "base")
        result: dict[str, Any] = {"merge_method": self.method, "dtype": "float32"}
        if self.base:
            result["base_model"] = "base"
        if draw.random() < 0.3:
            result["out_dtype"] = draw.choice(["bfloat16", "float16"])
        result |= self._parameters({**kind.shared, **kind.per_model}, complete=draw.random() < 0.97)
        if form == "module":
            form = draw.choice(["models", "slices"] if self.stacks else ["models"])
            module = {
                form: self._content(form),
                **self._parameters({**kind.shared, **kind.per_model}),
            }
            return {**result, "modules": {"default": module}}
        return {**result, form: self._content(form)}

    def _content(self, form: str) -> list[dict[str, Any]]:
        if form == "models":
            return [self._entry(model) for model in self.models]
        return [self._slice() for _ in range(self.draw.randint(1, 3))]

    def _slice(self) -> dict[str, Any]:
        draw, kind = self.draw, self.kind
        length = draw.randint(1, self.layers)
        sources = []
        for model in self.models:
            first = draw.randint(0, self.layers - length)
            sources.append({**self._entry(model), "layer_range": [first, first + length]})
        part: dict[str, Any] = {"sources": sources}
        if draw.random() < 0.5:
            part |= self._parameters({**kind.shared, **kind.per_model})
        if self.base and not kind.merges_base and draw.random() < 0.3:
            part["base_model"] = draw.choice(self.models)
        return part

    def _entry(self, model: str) -> dict[str, Any]:
        merges = model != "base" or self.kind.merges_base
        spelt = {"model": {"path": model}} if self.draw.random() < 0.2 else model
        return {"model": spelt, **(self._parameters(self.kind.per_model) if merges else {})}

    def _parameters(self, known: dict[str, Value], complete: bool = False) -> dict[str, Any]:
        """Some of the parameters; if `complete`, with what has no default, for every tensor."""
        values = {}
        for name, value in known.items():
            whole = complete and name in ("weight", "t")
            if whole or self.draw.random() < 0.4:
                values[name] = self._setting(value, whole)
        return {"parameters": values} if values else {}

    def _setting(self, value: Value, whole: bool) -> Any:
        draw, kind = self.draw, self.draw.random()
        if kind < 0.4:
            return value(draw)
        if kind < 0.6:
            return [value(draw) for _ in range(draw.randint(1, self.layers + 1))]
        cases = []
        for _ in range(draw.randint(1, 3)):
            gradient = [value(draw) for _ in range(draw.randint(1, 4))]
            case = {"value": gradient if draw.random() < 0.3 else value(draw)}
            pattern = draw.choice(FILTERS)
            cases.append({**case, "filter": pattern} if draw.random() < 0.9 else case)
        if whole:
            cases.append({"value": value(draw)})
        return cases[0] if len(cases) == 1 and draw.random() < 0.5 else cases
