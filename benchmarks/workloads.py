"""What is measured, as plain data that any environment can read; and inputs made up for it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

# transformers' name of the architecture, and what differs from its configuration's defaults.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "bert-large": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096},
    ),
    "distilbert": ("distilbert", {}),
    "mobilebert": ("mobilebert", {}),
    "convbert": ("convbert", {"pad_token_id": 0}),
}  # fmt: skip
# For a look at whether everything runs: --tiny.
TINY: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 128, "vocab_size": 1000},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 1000},
    "mobilebert": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 1000,
                   "embedding_size": 32, "intra_bottleneck_size": 32, "intermediate_size": 64},
    "convbert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 128, "embedding_size": 64, "vocab_size": 1000},
}  # fmt: skip
RING = 8  # batches of different ids, so that no call sees the ids of the one before
# Name: the shape of a gamma distribution, mean and longest length in tokens.
LENGTHS = {"sst2": (4.0, 25, 128), "squad": (4.0, 170, 384), "wikipedia": (1.3, 200, 512)}
MASKED = 0.15  # of the positions of a masked language model's batch


@dataclasses.dataclass(frozen=True)
class Workload:
    """One row of a table: the same work for every contender.

    kind:    encode   ids to hidden states
             ragged   `batch` texts of `lengths` to class scores, in the order they came
             classify a training step of sequence classification, with dropout and AdamW
             mlm      a training step of masked language modelling, the same way; of `lengths`,
                      jbert packs rows and peers pad them
             distill  a step of `model` as the student of `teacher`
    mode:    latency (each call waited for), throughput (calls handed over in groups), or cold
             (the first call of a new process, compilation and all)
    padding: what peers do to ragged texts: "longest" of each batch, or "max"
    options: jbert's own, such as {"scan_layers": True}
    """

    name: str
    kind: str
    model: str
    batch: int
    length: int
    dtype: str = "float32"
    mode: str = "throughput"
    lengths: str | None = None
    padding: str = "longest"
    teacher: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    tiny: bool = False

    def model_type(self) -> str:
        return MODELS[self.model][0]

    def config(self, model: str | None = None) -> dict[str, Any]:
        """Fields of the configuration, under transformers' names."""
        kind, fields = MODELS[model or self.model]
        fields = {**fields, **(TINY[kind] if self.tiny else {})}
        return {**fields, "max_position_embeddings": max(512, self.length)}

    def vocab_size(self) -> int:
        return TINY[self.model_type()]["vocab_size"] if self.tiny else 30522

    def trains(self) -> bool:
        return self.kind in ("classify", "mlm", "distill")


def draw_lengths(kind: str, count: int, longest: int) -> np.ndarray:
    """Lengths as they are spread in a data set; Wikipedia's are cut at the longest."""
    shape, mean, _ = LENGTHS[kind]
    rng = np.random.default_rng(0)
    drawn = rng.gamma(shape, mean / shape, count).round().clip(4, longest)
    if kind == "wikipedia":
        drawn = np.where(rng.random(count) < 0.23, longest, drawn)
    return drawn.astype(np.int64)


def ids_like(shape: tuple[int, ...], vocab_size: int, seed: int = 0) -> np.ndarray:
    # Above 200, where no vocabulary has its special tokens.
    return np.random.default_rng(seed).integers(200, vocab_size, shape).astype(np.int32)


def ring(work: Workload) -> list[dict[str, np.ndarray]]:
    """Full batches of ids with everything a training step may read beside them."""
    batches = []
    for number in range(RING):
        rng = np.random.default_rng(number)
        ids = ids_like((work.batch, work.length), work.vocab_size(), number)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if work.kind == "classify":
            batch["labels"] = rng.integers(0, 2, work.batch).astype(np.int32)
        batches.append(with_labels(batch, number) if work.kind in ("mlm", "distill") else batch)
    return batches


def texts(work: Workload) -> list[np.ndarray]:
    """The ids of ragged texts, each as long as it is."""
    lengths = draw_lengths(work.lengths or "sst2", work.batch, work.length)
    return [ids_like((n,), work.vocab_size(), seed) for seed, n in enumerate(lengths.tolist())]


def documents(work: Workload) -> Iterator[list[np.ndarray]]:
    """Batches of `work.batch` ragged texts for masked language modelling, without an end."""
    number = 0
    lengths = draw_lengths(work.lengths or "wikipedia", 4096, work.length)
    while True:
        at = (number * work.batch) % 4096
        chosen = np.take(lengths, range(at, at + work.batch), mode="wrap").tolist()
        yield [ids_like((n,), work.vocab_size(), number * 97 + i) for i, n in enumerate(chosen)]
        number += 1


def padded(rows: list[np.ndarray], width: int) -> dict[str, np.ndarray]:
    """Rows of ids padded on the right."""
    ids = np.zeros((len(rows), width), np.int32)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def with_labels(batch: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The batch with labels at a share of each row's real positions, and -100 elsewhere."""
    ids, mask = batch["input_ids"], batch.get("attention_mask", batch.get("segment_ids"))
    # Real positions in a random order, before all that are padding.
    order = np.where(mask > 0, np.random.default_rng(seed).random(ids.shape), 2).argsort(axis=1)
    counts = np.maximum(1, (MASKED * (mask > 0).sum(axis=1)).round())
    chosen = order.argsort(axis=1) < counts[:, None]
    return {**batch, "labels": np.where(chosen, ids, -100).astype(np.int32)}
