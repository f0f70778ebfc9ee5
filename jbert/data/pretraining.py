"""What pretraining draws its batches from: blocks or pairs of text from a corpus, masked anew in
every epoch.

A batch is a function of the corpus, the seed, the epoch and the numbers of its rows. A phase at
another length is another source over the same corpus.
"""

import dataclasses
from typing import Literal

import numpy as np

from jbert import windows
from jbert.data import draws, packing
from jbert.data.blocks import cut_blocks
from jbert.data.cache import digest
from jbert.data.corpus import Corpus
from jbert.data.masking import check_options, mask_tokens, most_predictions
from jbert.data.sentence_pairs import draw_pairs, plan_pairs
from jbert.tokenizer import Tokenizer

TASKS = ("masked_lm", "pretraining", "replaced_token_detection")

# The shares of masked tokens that become [MASK] and random ones. The others stay as they are, and
# ELECTRA has no random ones: its generator makes them.
BERT, ELECTRA = (0.8, 0.1), (0.85, 0.0)


@dataclasses.dataclass(frozen=True)
class Masking:
    """How tokens are masked; see `mask_tokens`."""

    rate: float = 0.15
    """The share of the tokens to predict."""
    strategy: Literal["token", "whole_word", "span"] = "token"
    """Mask single tokens, whole words, or spans of words as SpanBERT does."""
    replace: tuple[float, float] | None = None
    """Of the masked tokens, the shares that become [MASK] and a random token; by default 0.8 and
    0.1, for a generator 0.85 and 0."""
    max_predictions: int | None = None
    """The most of each sequence."""
    max_span: int = 10
    """The most words of a span."""
    span_p: float = 0.2
    """Parameter of the geometric distribution that the lengths of spans have."""

    def __post_init__(self) -> None:
        check_options(**dataclasses.asdict(self.of("masked_lm")))

    def of(self, task: str) -> "Masking":
        """With the shares to replace that the task has by default."""
        usual = ELECTRA if task == "replaced_token_detection" else BERT
        return dataclasses.replace(self, replace=usual) if self.replace is None else self


def pretraining_source(
    task: str,
    corpus: Corpus,
    max_length: int,
    *,
    masking: Masking = Masking(),
    pack: bool | None = None,
    max_sequences: int | None = None,
    row_length: int | None = None,
    duplicates: int = 1,
    short_share: float = 0.1,
    seed: int = 0,
) -> "MaskedBlocks | MaskedPairs":
    """The source for a task: packed blocks, or for "pretraining" (MLM and NSP) sentence pairs.

    In replaced-token detection the masked tokens are for the generator, which stands in the step;
    the original is there too: the label, or where there is none the input.

    row_length: of packed rows, where they are to be longer than any sequence.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if task == "pretraining":
        if pack:
            raise ValueError(
                "pack=True with the task 'pretraining': next-sentence prediction reads the first "
                "token of a row, and a packed row holds several pairs. Pass pack=False, or the "
                "task 'masked_lm'"
            )
        return MaskedPairs(corpus, max_length, masking=masking.of(task), seed=seed,
                           duplicates=duplicates, short_share=short_share)  # fmt: skip
    return MaskedBlocks(corpus, max_length, masking=masking.of(task), pack=pack in (None, True),
                        max_sequences=max_sequences, row_length=row_length, seed=seed)  # fmt: skip


class MaskedBlocks:
    """Blocks of whole sentences, [CLS] before and [SEP] behind, alone in a row or packed.

    Attributes:
        max_length: of a row.
        max_predictions: the most that a row has, for steps that gather them.
    """

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        *,
        masking: Masking,
        pack: bool = True,
        max_sequences: int | None = None,
        row_length: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_length(max_length, 3)
        self.corpus, self.pack, self.seed = corpus, pack, seed
        self.max_sequences = max_sequences
        self.max_length = _row_length(row_length, max_length, pack)
        self.masker = _Masker(corpus.tokenizer, masking)
        self.starts, self.sizes = cut_blocks(corpus, max_length - 2)
        self.fingerprint = digest(
            "blocks", corpus.fingerprint, max_length, self.max_length, pack, max_sequences, seed,
            dataclasses.asdict(masking),
        )  # fmt: skip
        predictions = self.masker.most(self.sizes)
        self._packings: dict[int, packing.Packing] = {}
        self._rows = len(self.sizes)
        if pack:
            plan = self.packing(0)
            self._rows = len(plan)
            # Every epoch packs the same lengths together, and so has the same most.
            predictions = np.add.reduceat(predictions[plan.sequences], plan.starts[:-1])
        self.max_predictions = int(predictions.max())

    def __len__(self) -> int:
        return self._rows

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self), self.max_length, np.int32)

    def length(self, rows: np.ndarray) -> int:
        return self.max_length

    def packing(self, epoch: int) -> packing.Packing:
        """Which blocks stand in which row. The number of rows is the same in every epoch."""
        if epoch not in self._packings:
            # Two, because the end of one epoch and the start of the next are asked for in turns.
            while len(self._packings) > 1:
                self._packings.pop(next(iter(self._packings)))
            self._packings[epoch] = packing.pack(
                self.sizes + 2, self.max_length, max_sequences=self.max_sequences, seed=self.seed,
                epoch=epoch,
            )  # fmt: skip
        return self._packings[epoch]

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        """Rows of `length` with `segment_ids`; packed ones also with `position_ids`."""
        _check_width(length, self.max_length)
        blocks, place = np.asarray(rows), None
        if self.pack:
            blocks, place = self.packing(epoch).select(blocks)
        sizes = self.sizes[blocks].astype(np.int64)
        first = windows.Segments(self.starts[blocks], sizes, self.corpus.tokens, None, None)
        width = length if place is None else int(sizes.max(initial=0)) + 2
        keys = draws.row_keys(blocks, self.seed, epoch)
        batch = self.masker.masked(first, None, width, keys)
        # Of these MobileBERT and ConvBERT read no padding, which packed rows have not either.
        segments = batch.pop("attention_mask")
        if place is None:
            return batch | {"segment_ids": segments}
        # Masked before it is packed, a block has the same masks whatever stands beside it.
        padding = {**packing.PADDING, "input_ids": self.corpus.tokenizer.pad_token_id}
        return packing.build_rows(batch, sizes + 2, place, (len(rows), length), padding)


class MaskedPairs:
    """Two texts a row, [CLS] A [SEP] B [SEP], with `next_sentence_label` 1 if B is a random one.

    Attributes:
        max_predictions: the most that a row has, for steps that gather them.
    """

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        *,
        masking: Masking,
        duplicates: int = 1,
        short_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        _check_length(max_length, 5)
        self.corpus, self.max_length, self.seed = corpus, max_length, seed
        self.masker = _Masker(corpus.tokenizer, masking)
        self.plan = plan_pairs(
            corpus, max_length - 3, seed=seed, duplicates=duplicates, short_share=short_share
        )
        self.fingerprint = digest(
            "pairs", corpus.fingerprint, max_length, duplicates, short_share, seed,
            dataclasses.asdict(masking),
        )  # fmt: skip
        self.max_predictions = int(self.masker.most(np.array([max_length - 3]))[0])

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self), self.max_length, np.int32)

    def length(self, rows: np.ndarray) -> int:
        return self.max_length

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        _check_width(length, self.max_length)
        rows = np.asarray(rows)
        first, second, random = draw_pairs(
            self.corpus, self.plan, rows, self.max_length - 3, self.seed, epoch
        )
        keys = draws.row_keys(rows, self.seed, epoch)
        batch = self.masker.masked(first, second, length, keys)
        return {**batch, "next_sentence_label": random}


class _Masker:
    """A tokenizer's special tokens around texts, and its [MASK] in them."""

    def __init__(self, tokenizer: Tokenizer, masking: Masking) -> None:
        self.tokenizer, self.masking = tokenizer, masking
        size = len(tokenizer)
        self.special = np.zeros(size, np.bool_)
        self.special[tokenizer.all_special_ids] = True
        prefix = tokenizer.options.wordpieces_prefix
        self.starts_word = np.ones(size, np.bool_)
        inside = [
            index for token, index in tokenizer.get_vocab().items() if token.startswith(prefix)
        ]
        self.starts_word[inside] = False

    def most(self, sizes: np.ndarray) -> np.ndarray:
        counts, most = most_predictions(sizes, self.masking.rate), self.masking.max_predictions
        return counts if most is None else np.minimum(counts, most)

    def masked(
        self,
        first: windows.Segments,
        second: windows.Segments | None,
        width: int,
        keys: np.ndarray,
    ) -> dict[str, np.ndarray]:
        tokenizer, pair = self.tokenizer, second is not None
        ids = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        lengths = second.lengths if second is not None else np.zeros_like(first.lengths)
        whole = windows.whole(first.lengths, lengths)
        extra = ["token_type_ids"] if tokenizer.options.token_type_ids else []
        batch = windows.assemble(
            first, second, whole, windows.Layout(*ids, pair, True), width, extra
        )
        originals = batch["input_ids"]
        batch["input_ids"], batch["labels"] = mask_tokens(
            originals,
            self.special[originals],  # padding is special too
            keys,
            mask_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_ids=tokenizer.all_special_ids,
            word_starts=None if self.masking.strategy == "token" else self.starts_word[originals],
            **dataclasses.asdict(self.masking),
        )
        return batch


def _check_length(max_length: int, least: int) -> None:
    if max_length < least:
        raise ValueError(
            f"max_length is {max_length}; expected at least {least}, special tokens included"
        )


def _row_length(given: int | None, max_length: int, pack: bool) -> int:
    """The length of rows that hold sequences of up to `max_length`."""
    if given is None:
        return max_length
    if not pack:
        raise ValueError(f"row_length is {given}, which is of packed rows; expected none")
    if given < max_length:
        raise ValueError(
            f"row_length is {given}, but sequences have up to {max_length} tokens; expected a row "
            "for the longest of them at least"
        )
    return given


def _check_width(length: int, max_length: int) -> None:
    if length < max_length:
        raise ValueError(f"rows of up to {max_length} tokens do not fit into a batch of {length}")
