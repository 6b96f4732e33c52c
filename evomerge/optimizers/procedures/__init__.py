"""Fixed procedures, which end by themselves: grids and greedy soups."""
