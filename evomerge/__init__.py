"""evomerge: evolutionary search for model-merge recipes."""
