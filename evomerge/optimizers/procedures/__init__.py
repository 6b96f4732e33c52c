"""Fixed procedures that end by themselves: grids and greedy soups."""
