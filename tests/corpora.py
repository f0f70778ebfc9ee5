"""Corpora whose tokens say where they are from, and batches of a whole epoch of them."""

from pathlib import Path

import numpy as np

from jbert.data.corpus import Corpus
from jbert.data.pretraining import pretraining_source
from jbert.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = 4000
LENGTH = 64
# Whole words have two or three tokens: the first is followed by those that go on with it.
PREFIXES = ["", "##", "##", "", "##"]


def tokenizer(directory: Path) -> Tokenizer:
    words = [f"{PREFIXES[i % 5]}w{i}" for i in range(WORDS)]
    (directory / "vocab.txt").write_text("\n".join(SPECIAL + words))
    return Tokenizer.from_vocab(directory / "vocab.txt")


def corpus_of(tok, documents):
    """A corpus of documents of sentences of so many tokens; each token's id is 5 + its place."""
    sentences = np.concatenate([[0], np.cumsum([n for lines in documents for n in lines])])
    ends = np.concatenate([[0], np.cumsum([len(lines) for lines in documents])])
    tokens = (5 + np.arange(sentences[-1])).astype(np.uint16)
    return Corpus(tokens, sentences.astype(np.int64), ends.astype(np.int64), tok, (), "corpus")


def make(corpus, task="masked_lm", max_length=LENGTH, **options):
    return pretraining_source(task, corpus, max_length, **options)


def epoch_of(source, epoch=0, size=16):
    """All rows of an epoch, in batches of `size`."""
    batches = [
        source.batch(np.arange(at, min(at + size, len(source))), source.max_length, epoch)
        for at in range(0, len(source), size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def originals(batch):
    return np.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
