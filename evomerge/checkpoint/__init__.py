"""Reads models on disk: safetensors folders and adapters, lazily, compared and described.

Only safetensors are read. Large headers and JSON files are read by a child with limits first, shard
names cannot leave the model's folder, and pickled weights are refused.
"""
