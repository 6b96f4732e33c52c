"""What the tests of merging share: recipes over tiny families, and live models."""

import torch

from evomerge.recipe.recipe import Recipe

PROMPT = torch.tensor([[1, 7, 4, 20, 39, 5]])


def recipe_of(family, method="ties", weight=0.6, **more):
    parameters = {
        "weight": weight,
        **({"density": 0.5} if method not in ("linear", "task_arithmetic") else {}),
    }
    document = {
        "merge_method": method,
        "base_model": family["base"],
        "models": [{"model": family[name], "parameters": parameters} for name in "ab"],
    }
    return Recipe.from_dict({**document, **more})


def load_live(folder, dtype="float32"):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def logits(model):
    with torch.no_grad():
        return model(PROMPT).logits
