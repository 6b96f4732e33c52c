"""Reads the files of a model folder: where they are, their JSON, headers, shards and Python."""
