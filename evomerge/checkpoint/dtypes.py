"""Lists the dtypes that tensors are stored in: safetensors' code, torch's name, element bytes.

Nothing here imports torch, as headers are read without it; ``getattr(torch, name)`` is its dtype.
"""

from __future__ import annotations

NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
}
CODES = {name: code for code, name in NAMES.items()}
ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}
FLOATS = ("F64", "F32", "F16", "BF16")  # what can be averaged; quantized ones are refused before
FLOAT_NAMES = tuple(NAMES[code] for code in FLOATS)  # what a recipe may have as its dtype
