"""Numbers only: outcomes, item pools, paired differences, the race, and the verdict."""
