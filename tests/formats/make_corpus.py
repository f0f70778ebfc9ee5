"""Writes the torch files in `corpus/` and their expected contents; needs torch, run by hand.

    python tests/formats/make_corpus.py

`expected.json` maps file -> tensor name -> [dtype, shape, bytes in hex], in C order, as torch reads
it. Files under `refused/` are what torch can write and the reader must decline.
"""

import argparse
import io
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

CORPUS = Path(__file__).parent / "corpus"
DTYPES = (
    *("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64"),
    *("bool", "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


def cases() -> dict[str, object]:
    torch.manual_seed(0)
    base = torch.arange(24.0).reshape(4, 6)
    bits = torch.randint(0, 120, (2, 3), dtype=torch.uint8)
    dtypes = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        wide = torch.randn(2, 3).mul(50).abs()
        small = name.startswith("float8")
        dtypes[name] = bits.view(dtype).clone() if small else wide.to(dtype)
    dtypes["bfloat16_special"] = torch.tensor([float("nan"), float("inf"), -0.0]).bfloat16()
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tagged = torch.ones(2, 2)
    tagged._no_weight_decay = True
    return {
        "dtypes": dtypes,
        "tied": {"embeddings": base, "decoder": base, "other": base.clone()},
        "views": {
            "transposed": base.t(),
            "rows": base[1:3],
            "columns": base[:, ::2],
            "expanded": torch.arange(3.0).expand(4, 3),
            "one_by_expanded": torch.arange(5).expand(1, -1),
            "scalar": torch.tensor(3),
            "element": base[2, 3],
            "empty": torch.empty(0, 7),
            "permuted": torch.arange(24, dtype=torch.int32).reshape(2, 3, 4).permute(2, 0, 1),
            "diagonal": torch.arange(16.0).reshape(4, 4).diagonal(),
        },
        "parameter": {"weight": torch.nn.Parameter(base.clone()), "tagged": tagged},
        "module": linear.state_dict(),
        "trainer": {
            "epoch": 3,
            "loss": torch.tensor(0.5),
            "best": None,
            "args": {"lr": 1e-4, "dims": [1, 2], "size": torch.Size([2, 3])},
            "device": torch.device("cpu"),
            "index_device": torch.device("cuda", 1),
            "dtype": torch.float16,
            "model": linear.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        "lightning": {"state_dict": OrderedDict(linear.state_dict()), "global_step": 1 << 40},
        "nested": {
            "encoder": {"layer": {0: {"w": base}, 1: {"w": base + 1}}},
            "heads": [torch.ones(2), (torch.zeros(1), "text")],
            "step": 7,
        },
        "empty": OrderedDict(),
    }


def refused() -> dict[str, object]:
    base = torch.arange(6.0).reshape(2, 3)
    with torch.device("meta"):
        meta = torch.ones(2)
    return {
        "whole_module": torch.nn.Linear(2, 2),
        "sparse": {"w": base.to_sparse()},
        "quantised": {"w": torch.quantize_per_tensor(base, 0.1, 0, torch.qint8)},
        "numpy_scalar": {"w": base, "lr": np.float64(0.1)},
        "numpy_array": {"w": np.ones(3, np.float32)},
        "namespace": {"state_dict": {"w": base}, "args": argparse.Namespace(lr=1)},
        "conjugate": {"w": torch.ones(2, dtype=torch.complex64).conj()},
        "meta": {"w": meta},
        "bare_tensor": base,
        "list": [base, base],
    }


def described(tensor: torch.Tensor) -> list[object]:
    plain = tensor.detach().contiguous()
    raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0)
    return [str(plain.dtype)[6:], list(plain.shape), raw.numpy().tobytes().hex()]


def flattened(value: object, prefix: str = "") -> dict[str, list[object]]:
    if isinstance(value, torch.Tensor):
        return {prefix: described(value)}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    found: dict[str, list[object]] = {}
    if isinstance(value, dict):
        for key, child in value.items():
            found |= flattened(child, f"{prefix}.{key}" if prefix else str(key))
    return found


def main() -> None:
    expected = {}
    (CORPUS / "refused").mkdir(parents=True, exist_ok=True)
    for name, value in cases().items():
        inner = {"trainer": "model", "lightning": "state_dict"}.get(name)
        contents = flattened(value[inner] if inner else value)
        for layout in ("zip", "legacy"):
            path = CORPUS / f"{name}.{layout}.bin"
            torch.save(value, path, _use_new_zipfile_serialization=layout == "zip")
            # torch cannot read the old layout back where a dtype has no storage class of its own.
            if (name, layout) != ("dtypes", "legacy"):
                torch.load(path, weights_only=True)
            expected[path.name] = contents
    tied = cases()["tied"]
    for protocol in (3, 4, 5):
        for layout in ("zip", "legacy"):
            path = CORPUS / f"protocol{protocol}.{layout}.bin"
            new = layout == "zip"
            torch.save(tied, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
            expected[path.name] = flattened(tied)
    buffer = io.BytesIO()
    torch.save(tied, buffer)
    (CORPUS / "buffer.zip.bin").write_bytes(buffer.getvalue())
    expected["buffer.zip.bin"] = flattened(tied)
    torch.serialization.set_crc32_options(False)
    torch.save(tied, CORPUS / "no_crc.zip.bin")
    torch.serialization.set_crc32_options(True)
    expected["no_crc.zip.bin"] = flattened(tied)
    # The old layout holds the source code of each module's class, and where that lay.
    torch.serialization.get_source_lines_and_file = lambda _: (["class Linear: ...\n"], 0, "x.py")
    for name, value in refused().items():
        for layout in ("zip", "legacy"):
            path = CORPUS / "refused" / f"{name}.{layout}.bin"
            torch.save(value, path, _use_new_zipfile_serialization=layout == "zip")
    scripted = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(scripted, CORPUS / "refused" / "torchscript.zip.bin")
    text = json.dumps({"torch": torch.__version__, "files": expected}, separators=(",", ":"))
    (CORPUS / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
