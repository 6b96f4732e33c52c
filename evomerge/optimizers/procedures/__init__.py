"""Fixed procedures, such as grids and greedy soups, end on their own."""
