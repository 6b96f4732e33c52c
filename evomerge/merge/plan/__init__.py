"""Plans what to compute for each tensor: a recipe matched with the tensors of its parents."""
