"""Finds the holes of a recipe, binds them to models, and fills them from a point."""
