"""The parents of a merge as they are held in memory, nested merges among them."""
