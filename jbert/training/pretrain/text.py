"""The text of a pretraining run: for its tokenizer, as corpora, and as rows in their order."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jbert.data.batches import TrainingOrder
from jbert.data.cache import default_directory
from jbert.data.corpus import Corpus, list_files, no_text, open_corpus
from jbert.data.features import Source
from jbert.data.gathered import Gathered
from jbert.data.held_out import hold_out
from jbert.data.lines import not_text, numbered_lines
from jbert.data.phases import PhasedOrder
from jbert.data.pretraining import pretraining_source
from jbert.data.splits import TRAIN, VALIDATION
from jbert.data.table import DataError, DataWarning
from jbert.data.token_file import pieces
from jbert.tokenizer import Tokenizer
from jbert.training.pretrain.config import PretrainConfig

# Of all runs: figures of one can be compared with those of another.
EVALUATION_SEED = 0
# Tokens that are looked at to see whether a tokenizer knows a text.
SAMPLE = 10**6


def training_texts(config: PretrainConfig) -> Iterator[str]:
    """What a new tokenizer is trained on: the lines of the training files, held out or not."""
    files, empty = list_files(config.data.train_files), True
    for path in files:
        for _, line in numbered_lines(path):
            if not not_text(line):
                empty = empty and line.isspace()
                yield from pieces(line)
    if empty:
        raise no_text(files)


def read_corpora(config: PretrainConfig, tokenizer: Tokenizer) -> dict[str, Corpus]:
    """What is learned from, and what is not."""
    data = config.data
    cache = Path(data.cache_dir) if data.cache_dir else default_directory().with_name("corpora")

    def read(paths: tuple[str, ...]) -> Corpus:
        corpus = open_corpus(paths, tokenizer, cache, on_bad_row=data.on_bad_row)
        check_known(corpus)
        return corpus

    train = read(data.train_files)
    if data.validation_files:
        return {TRAIN: train, VALIDATION: read(data.validation_files)}
    # The second text of a pair may be of another document.
    least = 2 if config.task == "pretraining" else 1
    kept, held_out = hold_out(train, data.validation_share, least)
    return {TRAIN: kept, VALIDATION: held_out}


def check_known(corpus: Corpus) -> None:
    """Refuse text of which the tokenizer knows nothing: unknown tokens are never predicted."""
    unknown = float(np.mean(corpus.tokens[:SAMPLE] == corpus.tokenizer.unk_token_id))
    message = (
        f"{unknown:.0%} of the text's tokens are {corpus.tokenizer.unk_token}, which is never "
        "masked; expected a tokenizer for this text: --start.tokenizer, or a new one by "
        "--start.vocab_size"
    )
    if unknown == 1:
        raise DataError(message)
    if unknown > 0.1:
        warnings.warn(message, DataWarning, stacklevel=2)


def training_order(config: PretrainConfig, corpus: Corpus) -> Source | PhasedOrder:
    """The rows of the run, or of its phases."""
    if not config.phases:
        return rows_of(config, corpus, config.max_length, config.seed)
    orders = [
        TrainingOrder(
            rows_of(config, corpus, phase.length, config.seed),
            phase.batch_size or config.batch_size, config.seed, config.group_by_length,
        )
        for phase in config.phases
    ]  # fmt: skip
    return PhasedOrder(orders, [phase.steps for phase in config.phases])


def evaluated_rows(config: PretrainConfig, corpus: Corpus) -> dict[str, Source]:
    """The held-out text at each of the run's lengths, the longest first, always masked alike."""
    first, *others = sorted(set(config.lengths()), reverse=True)
    names = {VALIDATION: first} | {f"{VALIDATION}_{length}": length for length in others}
    try:
        return {
            name: rows_of(config, corpus, length, EVALUATION_SEED) for name, length in names.items()
        }
    except DataError as error:
        raise DataError(f"the text for validation: {error}") from error


def rows_of(config: PretrainConfig, corpus: Corpus, length: int, seed: int) -> Source:
    data, packing = config.data, config.packing
    source = pretraining_source(
        config.task, corpus, length, masking=config.masking, pack=packing.enabled,
        max_sequences=packing.max_sequences, row_length=packing.row_length,
        duplicates=data.duplicates, short_share=data.short_share, seed=seed,
    )  # fmt: skip
    return Gathered(source) if config.gather else source
