"""Large weight files are mapped at addresses that a processor's cache does not confuse."""

import json
import os
import struct

from evomerge.checkpoint.files.mapping import open_staggered


def sparse(file, elements):
    """A safetensors file of one bfloat16 tensor of zeros that takes no disk."""
    entry = {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}
    header = json.dumps({"a": entry}).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + 2 * elements)


def test_files_of_one_size_begin_at_different_steps_of_the_period(tmp_path):
    streams = []
    for number in range(6):
        sparse(tmp_path / f"{number}.safetensors", 134_105_856)  # mapped 2**28 apart
        streams.append(open_staggered(tmp_path / f"{number}.safetensors"))
    steps = {stream.get_tensor("a").data_ptr() % 2**28 // 2**21 for stream in streams}
    assert len(steps) == len(streams)
