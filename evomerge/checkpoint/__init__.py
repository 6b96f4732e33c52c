"""Models on disk: safetensors folders read lazily, compared, and written atomically.

Only safetensors are read. Large headers and JSON files are read by a child with limits first, shard
names cannot leave the model's folder, and pickled weights are refused.
"""

from evomerge.checkpoint.atomic import atomic_folder
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import (
    check_compatible,
    check_same_kind,
    check_same_tokens,
    tied_tensor,
)
from evomerge.checkpoint.folder import resolve
from evomerge.checkpoint.header import TensorInfo, read_header
from evomerge.checkpoint.opening import config_of, inspect_models
from evomerge.checkpoint.shards import write_shards
from evomerge.checkpoint.store import Factors, Store

__all__ = [
    "Checkpoint",
    "Factors",
    "Store",
    "TensorInfo",
    "atomic_folder",
    "check_compatible",
    "check_same_kind",
    "check_same_tokens",
    "config_of",
    "inspect_models",
    "read_header",
    "resolve",
    "tied_tensor",
    "write_shards",
]
