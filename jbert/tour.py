"""What `jbert tour` does: each architecture, small and random, once."""

import time
from typing import Any

import jax
import numpy as np

from jbert.backend import check_devices
from jbert.load import from_config
from jbert.models import REGISTRY
from jbert.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A model reads a sentence and fills the gap.",
    "Words that stand together are read together.",
    "Every architecture here answers to the same call.",
]
SIZES = {
    "bert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 256},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 256},
    "mobilebert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "intermediate_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32},
    "convbert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 256, "embedding_size": 32},
}  # fmt: skip


def tour() -> None:
    """Train a tokenizer on a few sentences; build, run and describe a model of each family."""
    check_devices()
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    print(f"jax {jax.__version__} on {len(jax.devices())} device(s): {kinds}\n")
    tokenizer = Tokenizer.train(TEXTS, vocab_size=200)
    print(f"{'architecture':<12}{'parameters':>12}{'logits':>18}{'first call':>12}{'next':>10}")
    for name in REGISTRY:
        sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        bert = from_config(
            {"model_type": name, **sizes, **SIZES[name]}, task="masked_lm", tokenizer=tokenizer
        )
        inputs: dict[str, Any] = tokenizer(TEXTS)
        if name == "distilbert":
            inputs.pop("token_type_ids")
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            logits = np.asarray(bert(**inputs).logits)
            seconds.append(time.perf_counter() - start)
        if not np.isfinite(logits).all():
            raise RuntimeError(f"{name}: the logits of a random model are not finite")
        print(
            f"{name:<12}{bert.num_params():>12,}{logits.shape!s:>18}"
            f"{seconds[0]:>10.2f} s{seconds[1] * 1e3:>7.1f} ms"
        )
    print("\nEvery architecture ran its masked-language-model head on 4 sentences.")
