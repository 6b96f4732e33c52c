"""Recipes with holes: finding the holes, binding them to models, and filling them from a point."""
