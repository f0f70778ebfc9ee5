"""masked_lm: running text, in which tokens are hidden anew in every epoch."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from jbert.data import draws, tokenise
from jbert.data.cache import digest
from jbert.data.features import Features
from jbert.data.masking import STRATEGIES, mask_tokens
from jbert.data.processors.base import Built, Notices, Processor, texts
from jbert.data.table import DataError, Table
from jbert.texts import check_choice
from jbert.tokenizer import Tokenizer
from jbert.windows import Windows

BORDERS = ("row", "blank", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Processor):
    """text:     the column of texts.
    by_line:  each text makes rows of its own; otherwise all texts are one stream, cut into rows of
              max_length tokens.
    border:   where in the stream a [SEP] stands: after every text, where texts are blank, or
              nowhere.
    rate, strategy: how many tokens are hidden and which; see `jbert.data.masking`.
    seed:     of the draws; an epoch's are the same in every run.
    """

    task: ClassVar[str] = "masked_lm"
    later: ClassVar[tuple[str, ...]] = ("buckets", "rate", "strategy", "seed")

    text: str = "text"
    by_line: bool = False
    border: str = "row"
    rate: float = 0.15
    strategy: str = "token"
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_choice("border", self.border, BORDERS)
        check_choice("strategy", self.strategy, STRATEGIES)
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; expected a share between 0 and 1")

    def process(
        self, table: Table, tokenizer: Tokenizer, cache: str | Path | bool = True
    ) -> "Masked":
        return Masked(super().process(table, tokenizer, cache), tokenizer, self)

    def build(self, table: Table, tokenizer: Tokenizer) -> Built:
        notices = Notices()
        encoded = tokenise.encode(tokenizer, texts(table, self.text, notices))
        if not encoded.lengths.any():
            raise DataError(f"{table.source}: expected texts in {self.text!r}, found no token")
        room = self.max_length - tokenise.added(pair=False)
        if self.by_line:
            full = encoded.lengths > 0
            notices.add("have no token and are left out", ~full)
            cut = tokenise.cut(encoded, None, self.max_length, 0)
            where = Windows(*(column[full[cut.sample]] for column in cut))
            owners = where.sample
        else:
            encoded, owners = self._stream(encoded, tokenizer.sep_token_id)
            starts = np.arange(0, len(encoded.ids), room)
            zeros = np.zeros_like(starts)
            lengths = np.minimum(room, len(encoded.ids) - starts)
            where = Windows(zeros, starts, lengths, zeros, zeros)
            owners = owners[starts]
        return Built(tokenise.lay_out(tokenizer, encoded, None, where), owners, notices)

    def _stream(self, encoded: tokenise.Texts, sep: int) -> tuple[tokenise.Texts, np.ndarray]:
        """All texts as one, and the row that each of its tokens is from."""
        ids = encoded.ids[tokenise.ragged(encoded.starts, encoded.lengths)]
        owners = np.repeat(np.arange(len(encoded.lengths)), encoded.lengths)
        ends = np.cumsum(encoded.lengths)
        if self.border != "row":
            ends = ends[encoded.lengths == 0] if self.border == "blank" else ends[:0]
        borders = np.unique(ends)
        borders = borders[(borders > 0) & (borders < len(ids))]
        ids, owners = np.insert(ids, borders, sep), np.insert(owners, borders, owners[borders])
        return tokenise.Texts(np.zeros(1, np.int64), np.array([len(ids)]), ids), owners


class Masked:
    """Features whose batches have some tokens hidden, and those as labels.

    What is hidden in a row depends on the seed, the epoch and the row alone, not on the batch.
    """

    def __init__(self, features: Features, tokenizer: Tokenizer, settings: MaskedLM):
        self.features, self.settings = features, settings
        chosen = settings.rate, settings.strategy, settings.seed
        self.fingerprint = digest(features.fingerprint, *chosen)
        self.mask_id, self.vocab_size = tokenizer.mask_token_id, len(tokenizer)
        self.special_ids = tokenizer.all_special_ids
        # Padding is special too. What the vocabulary does not know is text, and may be hidden.
        self._special = np.zeros(len(tokenizer), bool)
        self._special[[i for i in self.special_ids if i != tokenizer.unk_token_id]] = True
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        prefix = tokenizer.options.wordpieces_prefix
        self._starts = np.array([not token.startswith(prefix) for token in tokens])

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        return self.features.lengths

    def length(self, rows: np.ndarray) -> int:
        return self.features.length(rows)

    def batch(self, rows: np.ndarray, length: int, epoch: int) -> dict[str, np.ndarray]:
        batch = self.features.batch(rows, length, epoch)
        ids = batch["input_ids"]
        batch["input_ids"], batch["labels"] = mask_tokens(
            ids, self._special[ids],
            draws.row_keys(rows, self.settings.seed, epoch),
            mask_id=self.mask_id, vocab_size=self.vocab_size, rate=self.settings.rate,
            strategy=self.settings.strategy, special_ids=self.special_ids,
            word_starts=None if self.settings.strategy == "token" else self._starts[ids],
        )  # fmt: skip
        return batch
