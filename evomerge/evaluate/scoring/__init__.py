"""Plans the requests of a set of items, and turns the model's replies into outcomes."""
