"""A language model of transformers whose linear layers weigh low-rank changes as they read.

Written by evomerge beside the weights of such a model, which transformers loads where code of
models is allowed (`trust_remote_code`). It needs torch and transformers alone, opens no file and no
connection, and has a class for each dense architecture: `RoutedLlamaForCausalLM` is
`LlamaForCausalLM` with `RoutedLinear` in the places that the config's `routed` names. Its `gate`
says who weighs the changes:

smile         each layer, by how much of an input lies in a change (Tang 2024, arXiv 2408.10174)
mole          each layer, by a learned look at all changes (Wu 2024, arXiv 2404.13628)
wemoe         a gate for each MLP, by what has come into it (Tang 2024, arXiv 2402.00433)
twin_merging  one gate, by what the model without changes reads first (Lu 2024, arXiv 2406.15479)

The last two look at the mean over a prompt. Here a token's mean is over the tokens that it sees,
itself included, so that no answer depends on what comes after it, on padding or on other rows.
"""

import inspect
from copy import deepcopy
from functools import cache as once
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_PREFIX = "Routed"


class RoutedLinear(nn.Linear):
    """A linear layer and E changes of it, each taken by a share p_e of its own for every input.

    h_e = V_e^T x,    y = W x + b + sum_e p_e (U_e h_e + b_e)

    Attributes:
        expert_in: V^T of each change, (E, rank, inputs), rows of unit length, largest first.
        expert_out: U times its singular values, (E, outputs, rank).
        expert_bias: Change of the bias, (E, outputs); ``None`` without one.
    """

    def __init__(self, linear: nn.Linear, experts: int, rank: int) -> None:
        with_bias, weight = linear.bias is not None, linear.weight
        where: Any = {"device": weight.device, "dtype": weight.dtype}
        super().__init__(linear.in_features, linear.out_features, with_bias, **where)
        self.expert_in = _drawn(experts, rank, linear.in_features, **where)
        self.expert_out = _drawn(experts, linear.out_features, rank, **where)
        self.expert_bias = _drawn(experts, linear.out_features, **where) if with_bias else None

    def shares(self, h: Tensor) -> Tensor:
        """Return p, (..., E), for changes' inputs h, (..., E, rank)."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """Run the layer; inputs (..., inputs), outputs (..., outputs)."""
        experts, rank, width = self.expert_in.shape
        h = nn.functional.linear(input, self.expert_in.reshape(experts * rank, width))
        h = h.reshape(*h.shape[:-1], experts, rank)
        p = self.shares(h).to(h)  # (..., E)
        weighted = (h * p.unsqueeze(-1)).flatten(-2)  # (..., E * rank)
        changes = self.expert_out.transpose(0, 1).reshape(self.out_features, experts * rank)
        y = super().forward(input) + nn.functional.linear(weighted, changes)
        return y if self.expert_bias is None else y + p @ self.expert_bias


class ByInputs(RoutedLinear):
    """SMILE: p = softmax over e of |first `gate` entries of h_e|, the `top` largest kept."""

    def __init__(self, linear: nn.Linear, experts: int, rank: int, gate: int, top: int) -> None:
        super().__init__(linear, experts, rank)
        self.gate, self.top = gate, top

    def shares(self, h: Tensor) -> Tensor:
        """Return p; see `RoutedLinear`."""
        p = torch.softmax(h[..., : self.gate].float().norm(dim=-1), dim=-1)
        if self.top < p.shape[-1]:
            largest = p.topk(self.top, dim=-1)
            p = torch.zeros_like(p).scatter(-1, largest.indices, largest.values)
            p = p / p.sum(-1, keepdim=True)
        return p


class ByChanges(RoutedLinear):
    """MoLE: p = softmax of G z, where z are all S_e h_e side by side, at a mean square of 1.

    S_e h_e is what change e would add, in coordinates of its own: of the same length.

    Attributes:
        gate_weight: G, (E, E * rank).
    """

    def __init__(self, linear: nn.Linear, experts: int, rank: int) -> None:
        super().__init__(linear, experts, rank)
        where: Any = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.gate_weight = _drawn(experts, experts * rank, **where)

    def shares(self, h: Tensor) -> Tensor:
        """Return p; see `RoutedLinear`."""
        z = (h * self.expert_out.norm(dim=1)).flatten(-2).float()
        z = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-12)
        return torch.softmax(z @ self.gate_weight.float().T, dim=-1)


class Shares:
    """Holds what a gate last said; `value` is (..., E), or ``None`` while no change is taken."""

    value: Tensor | None = None


class ByGate(RoutedLinear):
    """A layer whose shares a gate outside it says before it runs."""

    def __init__(self, linear: nn.Linear, experts: int, rank: int, said: Shares) -> None:
        super().__init__(linear, experts, rank)
        self.said = said

    def shares(self, h: Tensor) -> Tensor:
        """Return p; see `RoutedLinear`."""
        del h
        assert self.said.value is not None
        return self.said.value

    def forward(self, input: Tensor) -> Tensor:
        """Run the layer; inputs (..., inputs), outputs (..., outputs)."""
        return nn.Linear.forward(self, input) if self.said.value is None else super().forward(input)


class Router(nn.Module):
    """Scores of E changes: a linear layer, or two with a ReLU between them if `hidden` > 0."""

    def __init__(self, width: int, hidden: int, experts: int, **where: Any) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden, **where) if hidden else None
        self.last = nn.Linear(hidden or width, experts, **where)

    def forward(self, input: Tensor) -> Tensor:
        """Return scores (..., E) of inputs (..., width)."""
        if self.first is not None:
            input = torch.relu(self.first(input))
        scores: Tensor = self.last(input)
        return scores


class Past:
    """Knows which tokens each token sees, as attention does, and the cache that keeps them.

    Args:
        model: The model, whose layers have a cache's first places.
        first: Path of its first layer.
        again: Places behind them for what the layers read a first time.
        gates: Places behind those for gates' scores.
    """

    def __init__(self, model: Any, first: str, again: bool, gates: int) -> None:
        self.depth = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        self._first_gate = self.depth * (2 if again else 1)
        self._gates = gates
        self.cache: Any = None
        self._mask: Tensor | None = None
        model.get_submodule(first).register_forward_pre_hook(self._begin, with_kwargs=True)

    def _begin(self, _: Any, given: Any, named: dict[str, Any]) -> None:
        del given
        self._mask = named.get("attention_mask")

    def enter(self, cache: Any) -> None:
        """Begin to read behind a cache, and give it the places that it lacks; ``None``: without."""
        self.cache = cache
        if cache is None:
            return
        layers: Any = cache.layers
        plain: Any = transformers.cache_utils.DynamicLayer
        while len(layers) < self.depth:
            layers.append(plain())
        if len(layers) == self.depth:
            again = layers[: self._first_gate - self.depth]
            layers.extend([*map(deepcopy, again), *(plain() for _ in range(self._gates))])

    def mean(self, scores: Tensor, number: int) -> Tensor:
        """Return the mean of a gate's scores over the tokens that each token sees.

        Args:
            scores: Of the tokens that are read now, (rows, length, E).
            number: The gate's.
        """
        length, scores = scores.shape[1], scores.float()
        if self.cache is not None:
            keys = scores.unsqueeze(1)  # one head, as keys are kept
            place = self.cache.layers[self._first_gate + number]
            scores = place.update(keys, keys[..., :0])[0].squeeze(1)
        total = scores.shape[1]
        mask = None if self._mask is None else self._mask.to(scores.device)
        seen = torch.ones(length, total, dtype=torch.bool, device=scores.device)
        seen = seen.tril(total - length)
        if mask is not None and mask.dim() == 2:
            seen = seen & mask[:, None, -total:].bool()
        elif mask is not None:
            mask = mask[:, 0, :, -total:]
            seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        weights = seen.to(scores.dtype)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        return weights @ scores[:, -weights.shape[-1] :]


def _route(model: Any, about: dict[str, Any]) -> None:
    """Give a dense model the layers and gates that its config's `routed` names."""
    gate, sizes = about["gate"], (about["experts"], about["rank"])
    said = {path: Shares() for path in about.get("gates", ())}
    for path in about["modules"]:
        parent, _, last = path.rpartition(".")
        module = model.get_submodule(parent)
        linear = getattr(module, last)
        if gate == "smile":
            changed: Any = ByInputs(linear, *sizes, about["gate_rank"], about["top"])
        elif gate == "mole":
            changed = ByChanges(linear, *sizes)
        else:
            of = next(one for at, one in said.items() if not at or path.startswith(f"{at}."))
            changed = ByGate(linear, *sizes, of)
        setattr(module, last, changed)
    for path in said:
        where: Any = {"device": model.device, "dtype": model.dtype}
        router = Router(about["width"], about["hidden"], about["experts"], **where)
        (model.get_submodule(path) if path else model).router = router
    if said:
        past = Past(model, about["first"], gate == "twin_merging", len(said))
        (_look_first if gate == "twin_merging" else _weigh_mlps)(model, past, said)


def _weigh_mlps(model: Any, past: Past, said: dict[str, Shares]) -> None:
    """Have each gate look at what comes into its MLP."""

    def enter(_: Any, given: Any, named: dict[str, Any]) -> Any:
        named = _with_cache(model, named)
        past.enter(named[_cache_name(model)])
        return given, named

    def weigh(number: int, shares: Shares) -> Any:
        def hook(mlp: Any, given: Any) -> None:
            shares.value = past.mean(mlp.router(given[0]), number)

        return hook

    model.base_model.register_forward_pre_hook(enter, with_kwargs=True)
    for number, (path, shares) in enumerate(said.items()):
        model.get_submodule(path).register_forward_pre_hook(weigh(number, shares))


def _look_first(model: Any, past: Past, said: dict[str, Shares]) -> None:
    """Have the model read everything without changes, and one gate look at its last states."""
    stack, (shares,) = model.base_model, said.values()

    def look(_: Any, given: Any, named: dict[str, Any]) -> Any:
        name = _cache_name(model)
        named = _with_cache(model, named)
        past.enter(named[name])
        first = {**named, "use_cache": past.cache is not None}
        if past.cache is not None:
            places = past.cache.layers[past.depth : 2 * past.depth]
            first[name] = transformers.cache_utils.Cache(layers=places)
        shares.value = None
        scores = model.router(stack.forward(*given, **first).last_hidden_state)
        shares.value = torch.softmax(past.mean(scores, 0), dim=-1)
        return given, named

    stack.register_forward_pre_hook(look, with_kwargs=True)


def _with_cache(model: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Return the stack's arguments with the cache that it would make by itself."""
    cache, used = named.get(_cache_name(model)), named.get("use_cache")
    if cache is None and (model.config.use_cache if used is None else used):
        cache = transformers.DynamicCache(config=model.config)
    return {**named, _cache_name(model): cache}


def _cache_name(model: Any) -> str:
    """Return the argument that takes keys and values, of which 5.24 changed the name."""
    accepted = inspect.signature(model.base_model.forward).parameters
    return next(name for name in ("cache", "past_key_values") if name in accepted)


def _drawn(*shape: int, **where: Any) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(*shape, **where))
    nn.init.normal_(weight, std=0.1)  # left out where weights are read anyway
    return weight


@once
def routed_model(name: str) -> Any:
    """Return a class of transformers with routed layers, by the class's own name."""
    dense: Any = getattr(transformers, name)

    def __init__(self: Any, config: Any, *arguments: Any, **keywords: Any) -> None:
        dense.__init__(self, config, *arguments, **keywords)
        _route(self, config.routed)

    content = {"__init__": __init__, "__module__": __name__, "__doc__": dense.__doc__}
    return type(f"{_PREFIX}{name}", (dense,), content)


@once
def routed_config(name: str) -> Any:
    """Return a config of transformers under a model_type of its own, by the class's own name."""
    dense: Any = getattr(transformers, name)
    content = {"model_type": f"routed_{dense.model_type}", "__module__": __name__}
    return type(f"{_PREFIX}{name}", (dense,), content)


def __getattr__(name: str) -> Any:
    dense = name.removeprefix(_PREFIX)
    if dense == name or not hasattr(transformers, dense):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if dense.endswith("Config"):
        return routed_config(dense)
    made = routed_model(dense)
    made.config_class = routed_config(getattr(transformers, dense).config_class.__name__)
    return made
