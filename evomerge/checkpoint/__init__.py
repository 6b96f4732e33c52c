"""Models on disk: safetensors folders read lazily, compared, and written atomically.

Only safetensors are read. A header is checked before anything parses it, shard names cannot leave
the model's folder, and pickled weights are refused.
"""

from evomerge.checkpoint.atomic import atomic_folder
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.compatible import (
    check_compatible,
    check_same_kind,
    check_same_tokens,
    tied_tensor,
)
from evomerge.checkpoint.folder import read_config, resolve
from evomerge.checkpoint.header import TensorInfo, read_header
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
    "read_config",
    "read_header",
    "resolve",
    "tied_tensor",
    "write_shards",
]
