"""Pipelines: from text to answers. `pipeline` makes one; each file here is one kind."""

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Any

from jbert.loaded import Bert
from jbert.pipelines.base import Pipeline, PipelineError
from jbert.pipelines.compile_cache import enable_compile_cache
from jbert.pipelines.feature_extraction import FeatureExtraction
from jbert.pipelines.fill_mask import FillMask
from jbert.pipelines.multiple_choice import MultipleChoice
from jbert.pipelines.next_sentence import NextSentence
from jbert.pipelines.question_answering import QuestionAnswering
from jbert.pipelines.sentence_embedding import SentenceEmbedding
from jbert.pipelines.text_classification import TextClassification
from jbert.pipelines.text_generation import TextGeneration
from jbert.pipelines.token_classification import TokenClassification

__all__ = ["PIPELINES", "Pipeline", "PipelineError", "pipeline"]

PIPELINES: Mapping[str, type[Pipeline]] = {
    "fill-mask": FillMask,
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
    "next-sentence": NextSentence,
    "feature-extraction": FeatureExtraction,
    "sentence-embedding": SentenceEmbedding,
    "text-generation": TextGeneration,
}
# transformers' other names.
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(
    task: str,
    model: Bert | str | PathLike[str],
    tokenizer: Any = None,
    *,
    batch_size: int | None = None,
    buckets: Sequence[int] | None = None,
    look_ahead: int | None = None,
    **options: Any,
) -> Any:
    """A function from text to answers, such as `pipeline("fill-mask", model="bert-base-uncased")`.

    task:       one of PIPELINES, whose classes say what they take and give.
    model:      a jbert.Bert, or what jbert.load takes: a short name, a hub id or a directory.
    tokenizer:  by default the model's.
    batch_size: rows that run together; by default more the shorter they are.
    buckets:    lengths in tokens that rows are padded to, each compiled for a few batch sizes.
    look_ahead: how many inputs are read, sorted and batched at a time.

    Further keywords are the pipeline's own options, which any call can change, and, where `model`
    is a name, those of jbert.load (dtype, mesh, revision, …).

    What is compiled is kept on disk for the next process, in JAX_COMPILATION_CACHE_DIR or the
    user's cache directory; JBERT_NO_COMPILE_CACHE=1 turns that off.
    """
    kind = _kind(task)
    enable_compile_cache()
    own = {field.name for field in dataclasses.fields(kind.options_class)}
    if not isinstance(model, Bert):
        loading = {name: value for name, value in options.items() if name not in own}
        model, found = kind.open(model, loading)
        options = found | {name: value for name, value in options.items() if name in own}
    return kind(
        model, tokenizer, batch_size=batch_size, buckets=buckets, look_ahead=look_ahead, **options
    )


def _kind(task: str) -> type[Pipeline]:
    name = ALIASES.get(task, task)
    if name in PIPELINES:
        return PIPELINES[name]
    near = get_close_matches(str(task).replace("_", "-"), PIPELINES, 1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"there is no pipeline {task!r}{hint}; expected one of {sorted(PIPELINES)}")
