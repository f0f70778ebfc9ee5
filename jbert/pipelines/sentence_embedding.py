"""sentence-embedding: one vector for a text, and how similar two texts are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jbert.load import ENCODER, load
from jbert.loaded import Bert
from jbert.locate import locate
from jbert.pipelines.base import (
    Encoded,
    Options,
    Pipeline,
    check_choice,
    check_count,
    text_of,
    whole,
)
from jbert.pipelines.feature_extraction import encoder_of
from jbert.pipelines.sentence_transformers import read_settings

POOLINGS = ("mean", "cls", "max")


@dataclasses.dataclass(frozen=True)
class SentenceEmbeddingOptions(Options):
    """pooling:        mean or max over the text's tokens, special ones included, or cls, the first.
    normalize:      scale each vector to length 1.
    max_seq_length: texts are cut to so many tokens; by default to what the model has.
    do_lower_case:  lowercase texts before the tokenizer sees them.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_seq_length: int | None = None
    do_lower_case: bool = False

    def __post_init__(self):
        check_choice("pooling", self.pooling, POOLINGS)
        if self.max_seq_length is not None:
            check_count("max_seq_length", self.max_seq_length, 3)


class SentenceEmbedding(Pipeline):
    """Texts in; a vector for a text, or an array (texts, size) for a list, out.

    From a sentence-transformers directory pooling, normalisation and length are read as well;
    modules that are not of these kinds are refused.
    """

    name = "sentence-embedding"
    task = None
    options_class = SentenceEmbeddingOptions

    @classmethod
    def open(cls, model: Any, loading: Mapping[str, Any]) -> tuple[Bert, dict[str, Any]]:
        loading = dict(loading)
        where = {
            name: loading.pop(name)
            for name in ("revision", "cache_dir", "local_files_only")
            if name in loading
        }
        path, source = locate(model, **where)
        if not path.is_dir():
            return load(path, ENCODER, **loading), {}
        settings = read_settings(path)
        found = {
            "pooling": settings.pooling,
            "normalize": settings.normalize,
            "max_seq_length": settings.max_seq_length,
            "do_lower_case": settings.lowercase,
        }
        bert = load(settings.transformer, ENCODER, **loading)
        bert = dataclasses.replace(bert, source=source)
        return bert, {name: value for name, value in found.items() if value is not None}

    def fit(self, bert: Bert) -> Bert:
        return encoder_of(bert)

    def __call__(self, inputs: Any, *, on_error: str = "raise", **options: Any) -> Any:
        answer = super().__call__(inputs, on_error=on_error, **options)
        # One array, unless an error stands in for some vector.
        if isinstance(answer, list) and all(isinstance(row, np.ndarray) for row in answer):
            config: Any = self.bert.config
            return np.stack(answer) if answer else np.zeros((0, config.hidden_size), np.float32)
        return answer

    def similarity(self, first: Any, second: Any) -> np.ndarray:
        """The cosines between texts (or vectors) and others: an array (first, second)."""
        return _unit(self._vectors(first)) @ _unit(self._vectors(second)).T

    def _vectors(self, texts: Any) -> np.ndarray:
        if not isinstance(texts, np.ndarray) or texts.dtype.kind in "USO":
            texts = self([texts] if isinstance(texts, str) else list(texts))
        return np.atleast_2d(np.asarray(texts, np.float32))

    def check(self, item: Any) -> str:
        return text_of(item)

    def encode(self, items: list[str], options: Any, numbers: list[int]) -> Encoded:
        if options.do_lower_case:
            items = [item.lower() for item in items]
        limit = min(options.max_seq_length or self.limit, self.limit)
        settings = {"pooling": options.pooling, "normalize": options.normalize}
        return whole(self.tokenizer(items, max_length=limit), settings=settings)

    @staticmethod
    def program(module, params, inputs, extra, *, pooling, normalize):  # pyright: ignore
        hidden = module.apply({"params": params}, **inputs).last_hidden_state.astype(jnp.float32)
        mask = inputs.get("attention_mask", inputs.get("segment_ids"))
        mask = (mask > 0)[..., None]
        if pooling == "cls":
            vectors = hidden[:, 0]
        elif pooling == "max":
            vectors = jnp.where(mask, hidden, -jnp.inf).max(axis=1)
        else:
            vectors = jnp.where(mask, hidden, 0).sum(axis=1) / mask.sum(axis=1)
        if normalize:
            size = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / jnp.maximum(size, 1e-12)
        return {"vectors": vectors}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        return rows[0]["vectors"]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
