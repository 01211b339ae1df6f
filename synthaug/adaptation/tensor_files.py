"""Safetensors files written one tensor at a time: a state as large as its GPUs needs the memory of its largest tensor.

The format: the length of the header as eight bytes, the header as JSON, then the bytes of the tensors in its order. Wide types
come first, as the library itself writes them, so that each tensor is aligned.
"""

import json
import os
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from synthaug.adaptation.sharding import whole

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(
    path: Path | None,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    kind: torch.dtype | None = None,
) -> None:
    """Write tensors to `path`, in a temporary file beside it until they are on the disk.

    Args:
        path: None in processes that only give their rows; every process calls, with the same names.
        kind: type of all tensors in the file; their own when None.
    """
    order = sorted(tensors, key=lambda name: (-(kind or tensors[name].dtype).itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        stored, start = kind or tensors[name].dtype, end
        end += tensors[name].numel() * stored.itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": NAMES[stored], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial") if path else None
    with open(partial, "wb") if partial else nullcontext() as file:
        if file:
            file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            value = whole(tensors[name].detach())
            if file:
                flat = value.to("cpu", kind or value.dtype).contiguous().view(-1)
                file.write(flat.view(torch.uint8).numpy())
        if file:
            file.flush()
            os.fsync(file.fileno())
    if partial and path:
        partial.replace(path)
