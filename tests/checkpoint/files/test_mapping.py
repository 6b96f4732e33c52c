"""Large weight files are mapped where a processor's cache tells them apart."""

import json
import os
import struct

from evomerge.checkpoint.files.mapping import open_apart


def sparse(file, elements):
    """A safetensors file of one bfloat16 tensor of zeros that takes no disk."""
    entry = {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}
    header = json.dumps({"a": entry}).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + 2 * elements)


def test_files_of_one_size_begin_at_places_of_their_own(tmp_path):
    streams = []
    for number in range(6):
        sparse(tmp_path / f"{number}.safetensors", 134_105_856)  # mapped 2**28 apart
        streams.append(open_apart(tmp_path / f"{number}.safetensors"))
    places = {stream.get_tensor("a").data_ptr() % 2**28 // 2**21 for stream in streams}
    assert len(places) == len(streams)
