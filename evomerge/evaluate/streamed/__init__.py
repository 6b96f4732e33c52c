"""A live model of which a few layers are on the device at a time."""
