"""Trains the gates of routed models on their parents' own rows, everything else frozen.

Twin-Merging's router learns to tell whose row it reads, from the shared merge's states; gates of
layers lower a loss of what the whole model predicts. Lu 2024, https://arxiv.org/abs/2406.15479;
Tang 2024, https://arxiv.org/abs/2402.00433; Wu 2024, https://arxiv.org/abs/2404.13628
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge import methods
from evomerge.calibration.cost import GATE_ROWS
from evomerge.calibration.rows import Row, batches
from evomerge.checkpoint.loaded.config import resolve_config
from evomerge.core.errors import UserError
from evomerge.core.threads import one_thread
from evomerge.evaluate.gradient.losses import FUNCTIONS, Answers
from evomerge.evaluate.model import load_model
from evomerge.merge.build import fill
from evomerge.merge.live_layout import parts
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.jobs import MergePlan
from evomerge.merge.plan.plan import plan
from evomerge.merge.plan.routed import GATE
from evomerge.methods.random import CounterRandom
from evomerge.recipe.recipe import Recipe

POSITIONS = 8  # of a row at which a router learns, evenly spread
DECAY = 1e-3  # of a router's weights, so that rows which can be told apart leave them finite


def untrained(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe with constant gates, changes at scale 1, and nothing that training ignores.

    Recipes that give the same train the same gates, but for their rows.
    """
    document = {key: value for key, value in recipe.to_dict().items() if key != "blocks"}
    parameters = {k: v for k, v in recipe.parameters.items() if k != "scale"}
    if recipe.merge_method == "twin_merging":  # whose router sees no changes, nor the rest
        parameters |= {"rank": 1, "rest": "base"}
    document["parameters"] = {**parameters, "train": False}
    document["models"] = [{"model": entry.model} for entry in recipe.models]
    for key in ("calibration", "out_dtype"):
        document.pop(key, None)
    return {**document, "dtype": "float32"}


def gates(recipe: Recipe, parents: Parents, rows: Sequence[Sequence[Row]]) -> dict[str, Tensor]:
    """Train the gates of a recipe.

    Args:
        recipe: The recipe, whose method takes `gates`.
        parents: Its parents.
        rows: Of each model, in the recipe's order; as many as wanted.

    Returns:
        The gates' tensors in float32, by their names in the result.

    Raises:
        UserError: The loss is not finite.
    """
    settings = {
        p.name: recipe.parameters.get(p.name, p.default)
        for p in methods.get(recipe.merge_method).parameters
    }
    planned = plan(Recipe.from_dict(untrained(recipe)), parents.checkpoints)
    model = routed_model(planned, parents)
    gate_tensors = parts(model, [job.name for job in planned.jobs if job.method == GATE])
    if recipe.merge_method == "twin_merging":
        return _router(model, gate_tensors, rows, settings)
    _lower(model, list(gate_tensors.values()), rows, settings, recipe.seed)
    return {name: tensor.detach().float().clone() for name, tensor in gate_tensors.items()}


def routed_model(planned: MergePlan, parents: Parents) -> Any:
    """Return a plan's routed model, float32."""
    config = resolve_config(planned.config)
    assert config is not None, "routed models are of an architecture of transformers"
    model, _ = load_model(config, "float32", parents.device)
    fill(model, planned, parents)
    return model


def _router(
    model: Any,
    tensors: Mapping[str, Tensor],
    rows: Sequence[Sequence[Row]],
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Train a linear router to tell whose row a prefix is of; whole batches, float64."""
    means = [states_of(model, of) for of in rows]
    x = torch.cat(means).double().cpu()
    y = torch.cat([torch.full((len(of),), i) for i, of in enumerate(means)])
    share = torch.cat([torch.full((len(of),), 1 / len(of) / len(means)) for of in means])
    centre, spread = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - centre) / spread
    with one_thread(), torch.enable_grad():
        weight = torch.zeros(len(means), x.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(len(means), dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([weight, bias], lr=settings["rate"], weight_decay=DECAY)
        for _ in range(settings["steps"]):
            adam.zero_grad()
            each = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="none")
            (each * share).sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
    final = weight.detach() / spread
    made = {"weight": final, "bias": bias.detach() - final @ centre}
    return {name: made[name.rpartition(".")[2]].float() for name in tensors}


def states_of(model: Any, rows: Sequence[Row], positions: int = POSITIONS) -> Tensor:
    """Return means of a routed model's last states without changes, over prefixes of rows.

    Args:
        model: A routed model whose gate has said nothing yet.
        rows: N rows.
        positions: How many prefixes of each row, evenly spread; 1 is the prompt: all up to
            the first token whose likelihood counts.

    Returns:
        Of shape (N * positions, width), row by row within batches of one length.
    """
    means = []
    with torch.inference_mode():
        for batch in batches(rows):
            tokens = torch.tensor([row.tokens[:-1] for row in batch], device=model.device)
            states = model.base_model.forward(input_ids=tokens, use_cache=False).last_hidden_state
            counts = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
            mean = states.float().cumsum(1) / counts[:, None]
            if positions == 1:
                ends = torch.tensor([row.first - 1 for row in batch], device=tokens.device)[:, None]
            else:
                ends = torch.linspace(0, tokens.shape[1] - 1, positions).round().long()
                ends = ends.to(tokens.device).expand(len(batch), -1)
            means.append(mean.gather(1, ends[..., None].expand(-1, -1, mean.shape[-1])))
    return torch.cat(means).flatten(0, 1)


def _lower(
    model: Any,
    tensors: Sequence[Tensor],
    rows: Sequence[Sequence[Row]],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Train gates in place: steps of as many rows of each model, in an order drawn by the seed."""
    orders = [_order(len(of), seed, i) for i, of in enumerate(rows)]
    each = max(1, GATE_ROWS // len(rows))
    for tensor in tensors:
        tensor.requires_grad_(True)
    adam = torch.optim.Adam(tensors, lr=settings["rate"])
    with torch.enable_grad():
        for step in range(settings["steps"]):
            taken = [
                of[order[(step * each + k) % len(of)]]
                for of, order in zip(rows, orders, strict=True)
                for k in range(each)
            ]
            adam.zero_grad()
            loss = torch.stack(_losses(model, taken, settings["loss"])).mean()
            if not bool(torch.isfinite(loss)):
                raise UserError(f"step {step + 1} of training gates: the loss is {float(loss)}")
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    for tensor in tensors:
        tensor.requires_grad_(False)


def _order(count: int, seed: int, number: int) -> list[int]:
    drawn = CounterRandom(seed, f"rows of model {number}").uniform(0, (count,))
    return [int(i) for i in drawn.argsort()]


def _losses(model: Any, rows: Sequence[Row], loss: str) -> list[Tensor]:
    """Return the loss of each row's answer; rows are padded behind, which no token before sees."""
    longest = max(len(row.tokens) for row in rows)
    padded = [row.tokens + (0,) * (longest - len(row.tokens)) for row in rows]
    tokens = torch.tensor(padded, device=model.device)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = []
    for i, row in enumerate(rows):
        logs = logits[i, row.first - 1 : len(row.tokens) - 1].float().log_softmax(-1)
        right = logs.gather(1, tokens[i, row.first : len(row.tokens), None])[:, 0]
        entropies = -(logs.exp() * logs).sum(-1)
        losses.append(FUNCTIONS[loss](Answers([right], [], [entropies], [len(right)], [[0]])))
    return losses
