"""A language model of transformers whose linear layers choose among low-rank changes (SMILE).

Written by evomerge beside the weights of such a model, which transformers loads where code of
models is allowed (`trust_remote_code`). It needs torch and transformers alone, opens no file and no
connection, and has a class for each dense architecture: `RoutedLlamaForCausalLM` is
`LlamaForCausalLM` with `RoutedLinear` in the places that the config's `smile` names.

Tang 2024, https://arxiv.org/abs/2408.10174
"""

from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_PREFIX = "Routed"


class RoutedLinear(nn.Linear):
    """A linear layer and E changes of it, of which each input takes those that it lies in most.

    h_e = V_e^T x,    p = softmax over e of |first `gate` entries of h_e|, the `top` largest kept
    y = W x + b + sum_e p_e (U_e h_e + b_e)

    Attributes:
        expert_in: V^T of each change, (E, rank, inputs), rows of unit length, largest first.
        expert_out: U times its singular values, (E, outputs, rank).
        expert_bias: Change of the bias, (E, outputs); ``None`` without one.
    """

    def __init__(self, linear: nn.Linear, experts: int, rank: int, gate: int, top: int) -> None:
        with_bias, weight = linear.bias is not None, linear.weight
        where: Any = {"device": weight.device, "dtype": weight.dtype}
        super().__init__(linear.in_features, linear.out_features, with_bias, **where)
        self.gate, self.top = gate, top
        self.expert_in = nn.Parameter(torch.empty(experts, rank, linear.in_features, **where))
        self.expert_out = nn.Parameter(torch.empty(experts, linear.out_features, rank, **where))
        bias = nn.Parameter(torch.empty(experts, linear.out_features, **where))
        self.expert_bias = bias if with_bias else None

    def forward(self, input: Tensor) -> Tensor:
        """Run the layer; inputs (..., inputs), outputs (..., outputs)."""
        experts, rank, width = self.expert_in.shape
        h = nn.functional.linear(input, self.expert_in.reshape(experts * rank, width))
        h = h.reshape(*h.shape[:-1], experts, rank)
        p = torch.softmax(h[..., : self.gate].float().norm(dim=-1), dim=-1)  # (..., E)
        if self.top < experts:
            largest = p.topk(self.top, dim=-1)
            p = torch.zeros_like(p).scatter(-1, largest.indices, largest.values)
            p = p / p.sum(-1, keepdim=True)
        p = p.to(input.dtype)
        weighted = (h * p.unsqueeze(-1)).flatten(-2)  # (..., E * rank)
        changes = self.expert_out.transpose(0, 1).reshape(self.out_features, experts * rank)
        y = super().forward(input) + nn.functional.linear(weighted, changes)
        return y if self.expert_bias is None else y + p @ self.expert_bias


@cache
def routed_model(name: str) -> Any:
    """Return a class of transformers with routed layers, by the class's own name."""
    dense: Any = getattr(transformers, name)

    def __init__(self: Any, config: Any, *arguments: Any, **keywords: Any) -> None:
        dense.__init__(self, config, *arguments, **keywords)
        about = config.smile
        sizes = (about["experts"], about["rank"], about["gate_rank"], about["top"])
        for path in about["modules"]:
            parent, _, last = path.rpartition(".")
            module = self.get_submodule(parent)
            setattr(module, last, RoutedLinear(getattr(module, last), *sizes))

    content = {"__init__": __init__, "__module__": __name__, "__doc__": dense.__doc__}
    return type(f"{_PREFIX}{name}", (dense,), content)


@cache
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
