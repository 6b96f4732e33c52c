"""Fixed procedures, such as grids and greedy soups, end by themselves."""
