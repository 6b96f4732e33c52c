"""Serves every room above: errors, files that appear whole, YAML, strict reading."""
