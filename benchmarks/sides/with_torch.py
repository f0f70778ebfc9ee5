"""transformers 5 on PyTorch: eager attention, scaled-dot-product attention, and torch.compile."""

import time
from typing import Any

import torch
import transformers

from benchmarks import workloads
from benchmarks.sides.side import Unsupported
from benchmarks.workloads import Workload

TEMPERATURE = 2.0
CLASSES = {"encode": "AutoModel", "ragged": "AutoModelForSequenceClassification",
           "classify": "AutoModelForSequenceClassification", "mlm": "AutoModelForMaskedLM",
           "distill": "AutoModelForMaskedLM"}  # fmt: skip
BATCHES = (1, 8, 32)  # of ragged texts; the fastest counts
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class TorchSide:
    def __init__(self, way: str):
        """way: "eager", "sdpa" or "compile"."""
        self.way = way
        transformers.logging.set_verbosity_error()
        # What JAX does with float32 on a GPU by default.
        torch.set_float32_matmul_precision("high")

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def device(self) -> str:
        return f"gpu: {torch.cuda.get_device_name()}" if DEVICE == "cuda" else "cpu: cpu"

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None

    def build(self, work: Workload) -> Any:
        if work.kind == "encode":
            return Encode(self.way, work)
        return Ragged(self.way, work) if work.kind == "ragged" else Train(self.way, work)


def model(way: str, work: Workload, name: str | None = None) -> Any:
    kind = workloads.MODELS[name or work.model][0]
    config = transformers.AutoConfig.for_model(kind, **work.config(name))
    cls, options = getattr(transformers, CLASSES[work.kind]).from_config, {}
    if work.kind == "encode" and kind in ("bert", "mobilebert"):
        # The automatic classes pass no argument of the model's on.
        classes = {"bert": transformers.BertModel, "mobilebert": transformers.MobileBertModel}
        cls, options = classes[kind]._from_config, {"add_pooling_layer": False}
    torch.manual_seed(0)
    # ConvBERT's class has no other attention to compile.
    eager = way == "eager" or (way == "compile" and kind == "convbert")
    try:
        made = cls(config, attn_implementation="eager" if eager else "sdpa", **options)
    except ValueError as error:
        if "attention" not in str(error):
            raise
        raise Unsupported(f"transformers has no {way} attention for {kind}") from error
    return made.to(DEVICE)


def placed(batch: dict) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x).long().to(DEVICE) for name, x in batch.items()}


def compiled(way: str, module: Any) -> Any:
    if way != "compile":
        return module
    # CUDA graphs, where there is CUDA: without them small batches wait for the host.
    return torch.compile(module, mode="reduce-overhead" if DEVICE == "cuda" else None)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Encode:
    def __init__(self, way: str, work: Workload):
        made = model(way, work).to(getattr(torch, work.dtype)).eval()
        self.module, self.units = compiled(way, made), float(work.batch)
        self.ring = [
            {name: batch[name] for name in ("input_ids", "attention_mask")}
            for batch in workloads.ring(work)
        ]

    @torch.inference_mode()
    def start(self, number: int) -> Any:
        return self.module(**placed(self.ring[number % len(self.ring)])).last_hidden_state

    def wait(self, started: Any) -> None:
        synchronize()


class Ragged:
    """Batches in the order of arrival, padded to their longest text or to the longest of all."""

    def __init__(self, way: str, work: Workload):
        if way == "compile":
            raise Unsupported("torch.compile compiles each of the ragged shapes again")
        self.module = model(way, work).to(getattr(torch, work.dtype)).eval()
        self.texts, self.work, self.units = workloads.texts(work), work, float(work.batch)
        times = {size: self._seconds(size) for size in BATCHES}
        self.size = min(times, key=times.__getitem__)

    def _seconds(self, size: int) -> float:
        some = self.texts[:32]
        self._run(some, size)
        begun = time.perf_counter()
        self._run(some, size)
        return time.perf_counter() - begun

    @torch.inference_mode()
    def _run(self, texts: list, size: int) -> Any:
        found = []
        for at in range(0, len(texts), size):
            rows = texts[at : at + size]
            longest = self.work.padding == "longest"
            width = max(map(len, rows)) if longest else self.work.length
            found.append(self.module(**placed(workloads.padded(rows, width))).logits)
        return torch.cat(found).float().cpu().numpy()

    def start(self, number: int) -> Any:
        at = number % len(self.texts)
        return self._run(self.texts[at:] + self.texts[:at], self.size)

    def wait(self, started: Any) -> None:
        pass


class Train:
    """A step as transformers' Trainer takes it: autocast for bfloat16, clipping, AdamW."""

    def __init__(self, way: str, work: Workload):
        self.work = work
        made = model(way, work).train()
        self.module, self.parameters = compiled(way, made), list(made.parameters())
        self.teacher = None
        if work.teacher is not None:
            teacher = model(way, work, work.teacher).to(getattr(torch, work.dtype)).eval()
            self.teacher = compiled(way, teacher)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=5e-5, weight_decay=0.01, fused=True)
        self.batches, self.units = self._batches(work)

    @staticmethod
    def _batches(work: Workload) -> tuple[list, float]:
        if work.lengths is None:
            return workloads.ring(work), float(work.batch)
        rows = workloads.documents(work)
        batches = [workloads.padded(next(rows), work.length) for _ in range(workloads.RING)]
        units = sum(float(batch["attention_mask"].sum()) for batch in batches) / len(batches)
        return [workloads.with_labels(b, n) for n, b in enumerate(batches)], units

    def start(self, number: int) -> Any:
        batch = placed(self.batches[number % len(self.batches)])
        low = torch.autocast(DEVICE, torch.bfloat16, enabled=self.work.dtype == "bfloat16")
        with low:
            loss = self._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _loss(self, batch: dict) -> torch.Tensor:
        if self.teacher is None:
            return self.module(**batch).loss
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            other = torch.log_softmax(self.teacher(**inputs).logits.float() / TEMPERATURE, -1)
        own = torch.log_softmax(self.module(**inputs).logits.float() / TEMPERATURE, -1)
        return (other.exp() * (other - own)).sum(-1).mean()

    def wait(self, started: Any) -> None:
        synchronize()
