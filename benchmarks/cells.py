"""The cells of the table: which workloads each letter stands for, on a CPU and on accelerators."""

import dataclasses
from collections.abc import Callable

from benchmarks.workloads import LENGTHS, Workload

MODELS = ("bert-base", "distilbert", "mobilebert", "convbert")


@dataclasses.dataclass(frozen=True)
class Cell:
    title: str
    make: Callable[[bool], list[Workload]]  # True on an accelerator


def _name(*parts: object) -> str:
    return " ".join(str(part) for part in parts if part not in ("", None))


def latency(accelerator: bool) -> list[Workload]:
    found = []
    for model in (*MODELS, *(("bert-large",) if accelerator else ())):
        for length in (32, 128, 512):
            # On a CPU half of the precisions at one length: hours are not free there.
            for dtype in ("float32", "bfloat16"):
                if accelerator or dtype == "float32" or length == 128:
                    name = _name(model, "1×" + str(length), dtype)
                    found.append(Workload(name, "encode", model, 1, length, dtype, "latency"))
    return found


def throughput(accelerator: bool) -> list[Workload]:
    shapes = [(8, 128), (2, 512)]
    if accelerator:
        shapes = [(32, 128), (128, 128), (512, 128), (16, 512), (64, 512)]
    return [
        Workload(_name(model, f"{b}×{length}", dtype), "encode", model, b, length, dtype)
        for model in MODELS
        for b, length in shapes
        for dtype in (("bfloat16",) if accelerator else ("float32", "bfloat16"))
        if accelerator or dtype == "float32" or length == 128
    ]


def ragged(accelerator: bool) -> list[Workload]:
    model, count = ("bert-base", 8192) if accelerator else ("distilbert", 128)
    dtype = "bfloat16" if accelerator else "float32"
    return [
        Workload(_name(model, count, "texts like", kind, "peers pad to", pad), "ragged", model,
                 count, LENGTHS[kind][2], dtype, lengths=kind, padding=pad)
        for kind in ("sst2", "squad")
        for pad in ("longest", "max")
    ]  # fmt: skip


def training(kind: str, shapes: list[tuple[str, int, int]], dtype: str) -> list[Workload]:
    return [
        Workload(_name(model, f"{b}×{length}", dtype), kind, model, b, length, dtype)
        for model, b, length in shapes
    ]


def finetuning(accelerator: bool) -> list[Workload]:
    if accelerator:
        shapes = [("bert-base", 32, 128), ("bert-base", 16, 512), ("bert-large", 32, 384)]
        return training("classify", shapes, "bfloat16")
    return training("classify", [("bert-base", 8, 128), ("mobilebert", 8, 128)], "float32")


def pretraining(accelerator: bool) -> list[Workload]:
    if accelerator:
        shapes = [("bert-base", 256, 128), ("bert-base", 64, 512), ("mobilebert", 128, 128)]
        return training("mlm", shapes, "bfloat16")
    return training("mlm", [("bert-base", 4, 128), ("mobilebert", 4, 128)], "float32")


def packing(accelerator: bool) -> list[Workload]:
    model, b = ("bert-base", 64) if accelerator else ("distilbert", 2)
    dtype = "bfloat16" if accelerator else "float32"
    name = _name(model, f"{b}×512", "documents like wikipedia", dtype)
    return [Workload(name, "mlm", model, b, 512, dtype, lengths="wikipedia")]


def distilling(accelerator: bool) -> list[Workload]:
    b, dtype = (128, "bfloat16") if accelerator else (4, "float32")
    return [
        Workload(_name("bert-base to", student, f"{b}×128", dtype), "distill", student, b, 128,
                 dtype, teacher="bert-base")
        for student in ("distilbert", "mobilebert")
    ]  # fmt: skip


def convolution(accelerator: bool) -> list[Workload]:
    shape = (32, 512) if accelerator else (4, 128)
    dtype = "bfloat16" if accelerator else "float32"
    return training("classify", [("convbert", *shape)], dtype)


def cold(accelerator: bool) -> list[Workload]:
    dtype = "bfloat16" if accelerator else "float32"
    found = []
    for model in MODELS:
        for kind in ("encode", "classify"):
            name = _name(model, "first", kind, "8×128")
            work = Workload(name, kind, model, 8, 128, dtype, "cold")
            found.append(work)
            scanned = {"scan_layers": True}
            found.append(dataclasses.replace(work, name=name + " scanned", options=scanned))
    return found


def documented(accelerator: bool) -> list[Workload]:
    """The shapes for which transformers' documentation gives times on an A100."""
    if not accelerator:
        return []
    shapes = [(b, length) for length in (128, 256) for b in (1, 2, 4)]
    found = [
        Workload(_name("bert-base", f"{b}×{length}", "bfloat16"), "encode", "bert-base", b, length,
                 "bfloat16", "latency")
        for b, length in shapes
    ]  # fmt: skip
    return found + training("classify", [("bert-base", 16, 512)], "bfloat16")


CELLS = {
    "A": Cell("Latency of the encoder", latency),
    "B": Cell("Throughput of the encoder", throughput),
    "C": Cell("Ragged texts, tokens in, logits out, in order", ragged),
    "D": Cell("Fine-tuning step, with dropout and AdamW", finetuning),
    "E": Cell("Masked-LM step", pretraining),
    "F": Cell("Masked-LM step on documents: jbert packs, peers pad", packing),
    "G": Cell("Distillation step", distilling),
    "H": Cell("ConvBERT's training step", convolution),
    "I": Cell("First call of a new process, compilation and all", cold),
    "J": Cell("Shapes of transformers' documentation", documented),
}
