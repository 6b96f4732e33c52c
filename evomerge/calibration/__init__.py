"""Makes statistics of a model from rows of its own and keeps them, for RegMean, Fisher, UBGM."""
