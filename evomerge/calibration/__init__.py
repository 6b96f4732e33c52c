"""Makes statistics of models from rows of their own and keeps them, and trains gates on them."""
