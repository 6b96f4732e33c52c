"""The gradient of a loss over items by a live model's weights."""
