"""KerasHub on its JAX backend, as `predict_on_batch` and `train_on_batch` run it."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from typing import Any  # noqa: E402

import jax  # noqa: E402
import keras  # noqa: E402
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import workloads  # noqa: E402
from benchmarks.sides.side import Unsupported  # noqa: E402
from benchmarks.workloads import Workload  # noqa: E402


class KerasSide:
    def versions(self) -> dict[str, str]:
        return {"keras": keras.__version__, "keras_hub": keras_hub.__version__,
                "jax": jax.__version__}  # fmt: skip

    def device(self) -> str:
        return f"{jax.default_backend()}: {jax.devices()[0].device_kind}"

    def peak_bytes(self) -> int | None:
        stats = jax.devices()[0].memory_stats()
        return None if stats is None else stats.get("peak_bytes_in_use")

    def build(self, work: Workload) -> Any:
        if work.model_type() not in ("bert", "distilbert"):
            raise Unsupported(f"KerasHub has no {work.model_type()}")
        if work.kind not in ("encode", "classify"):
            raise Unsupported(f"no {work.kind} with KerasHub here")
        policy = {"bfloat16": "mixed_bfloat16"}.get(work.dtype, work.dtype)
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        return Encode(work) if work.kind == "encode" else Train(work)


def backbone(work: Workload) -> Any:
    fields = work.config()
    if work.model_type() == "distilbert":
        return keras_hub.models.DistilBertBackbone(
            vocabulary_size=work.vocab_size(), num_layers=fields.get("n_layers", 6),
            num_heads=fields.get("n_heads", 12), hidden_dim=fields.get("dim", 768),
            intermediate_dim=fields.get("hidden_dim", 3072), dropout=0.1,
            max_sequence_length=fields["max_position_embeddings"],
        )  # fmt: skip
    return keras_hub.models.BertBackbone(
        vocabulary_size=work.vocab_size(), num_layers=fields.get("num_hidden_layers", 12),
        num_heads=fields.get("num_attention_heads", 12),
        hidden_dim=fields.get("hidden_size", 768),
        intermediate_dim=fields.get("intermediate_size", 3072), dropout=0.1,
        max_sequence_length=fields["max_position_embeddings"],
    )  # fmt: skip


def inputs_of(work: Workload, batch: dict) -> dict[str, np.ndarray]:
    names = {"token_ids": batch["input_ids"], "padding_mask": batch["attention_mask"]}
    if work.model_type() == "bert":
        names["segment_ids"] = np.zeros_like(batch["input_ids"])
    return names


class Encode:
    def __init__(self, work: Workload):
        trunk = backbone(work)
        hidden = trunk.output["sequence_output"] if isinstance(trunk.output, dict) else trunk.output
        self.module = keras.Model(trunk.input, hidden)
        self.ring = [inputs_of(work, batch) for batch in workloads.ring(work)]
        self.units = float(work.batch)

    def start(self, number: int) -> Any:
        return self.module.predict_on_batch(self.ring[number % len(self.ring)])

    def wait(self, started: Any) -> None:
        pass  # predictions are on the host


class Train:
    def __init__(self, work: Workload):
        classes = {"bert": keras_hub.models.BertTextClassifier,
                   "distilbert": keras_hub.models.DistilBertTextClassifier}  # fmt: skip
        self.module = classes[work.model_type()](backbone(work), num_classes=2, preprocessor=None)
        self.module.compile(
            optimizer=keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=True,
        )
        self.batches = [(inputs_of(work, b), b["labels"]) for b in workloads.ring(work)]
        self.units = float(work.batch)

    def start(self, number: int) -> Any:
        return self.module.train_on_batch(*self.batches[number % len(self.batches)])

    def wait(self, started: Any) -> None:
        pass  # the loss is on the host
