"""WordPiece tokenizers of the BERT family: text in, int32 numpy arrays ready for a model out."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from jbert import windows
from jbert.texts import TRUNCATION, check_choice, check_positive, check_widths, segment_rows
from jbert.tokenizer_files import read_backend, read_directory, write_directory
from jbert.vocabulary import (
    TokenizerOptions,
    build_backend,
    read_vocab,
    special_tokens,
    train_vocab,
)

logger = logging.getLogger(__name__)

# transformers' clean_up_tokenization, in its order.
CLEAN_UP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'"} | {
    f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")
}


class Tokenizer:
    """Text to ids and back, with the same ids, offsets and masks as transformers' BertTokenizer.

    Make one with `from_vocab`, `from_file`, `from_pretrained` or `train`; each takes the fields of
    `TokenizerOptions` as keyword arguments. Encoding never changes the tokenizer, so threads may
    share one.
    """

    def __init__(self, backend: tokenizers.Tokenizer, options: TokenizerOptions):
        self.backend = backend
        self.options = options
        self.model_max_length = options.model_max_length
        self.pad_token, self.pad_token_id = self._special(options.pad_token)
        self.unk_token, self.unk_token_id = self._special(options.unk_token)
        self.cls_token, self.cls_token_id = self._special(options.cls_token)
        self.sep_token, self.sep_token_id = self._special(options.sep_token)
        self.mask_token, self.mask_token_id = self._special(options.mask_token)

    def _special(self, token: str) -> tuple[str, int]:
        return token, self.convert_tokens_to_ids(token)

    @classmethod
    def from_vocab(cls, path: str | Path, lowercase: bool = True, **options: Any) -> "Tokenizer":
        """Reads a vocab.txt, one token a line."""
        chosen = TokenizerOptions(lowercase=lowercase, **options)
        return cls(build_backend(read_vocab(path), chosen, path), chosen)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> "Tokenizer":
        """Reads a tokenizer.json; `options` win over what it says."""
        return cls(*read_backend(path, {}, options))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> "Tokenizer":
        """Reads a directory, a short name or a hub id; `options` win over what the files say.

        tokenizer.json is read before vocab.txt, and what tokenizer_config.json spells out wins over
        both. Without a stated limit `model_max_length` is config.json's `max_position_embeddings`.
        """
        directory = Path(name)
        if directory.is_file():
            raise ValueError(f"{name} is a file: use Tokenizer.from_vocab or Tokenizer.from_file")
        if not directory.is_dir():
            # Here, because the table of short names brings the models with it.
            from jbert.locate import locate

            directory, _ = locate(str(name), revision, cache_dir, local_files_only, "tokenizer")
        return cls(*read_directory(directory, options))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 30522,
        lowercase: bool = True,
        *,
        min_frequency: int = 2,
        **options: Any,
    ) -> "Tokenizer":
        """Learns a WordPiece vocabulary of at most `vocab_size` tokens from `texts`."""
        chosen = TokenizerOptions(lowercase=lowercase, **options)
        vocab = train_vocab(texts, vocab_size, chosen, min_frequency)
        return cls(build_backend(vocab, chosen, "the trained vocabulary"), chosen)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json, vocab.txt, tokenizer_config.json and special_tokens_map.json."""
        options = dataclasses.replace(self.options, model_max_length=self.model_max_length)
        write_directory(self.backend, options, directory)

    def __call__(
        self,
        texts: str | Sequence[Any] | np.ndarray,
        pairs: str | Sequence[Any] | np.ndarray | None = None,
        *,
        max_length: int | None = None,
        truncation: bool | str | None = None,
        padding: bool | str = True,
        stride: int = 0,
        pad_to: Sequence[int] | None = None,
        pad_to_multiple_of: int | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        return_offsets: bool = False,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_word_ids: bool = False,
        return_sequence_ids: bool = False,
        text_pair: str | Sequence[Any] | None = None,
        return_offsets_mapping: bool = False,
        return_tensors: str | None = "np",
    ) -> dict[str, np.ndarray]:
        """Encodes one text or many as transformers does, into arrays with a row for each.

        What differs, so that every result goes straight into a model: a single str makes a batch of
        one; rows are padded on the right to the longest unless `padding` says otherwise; and
        `max_length` alone truncates, whatever the padding. `pad_to` lists the widths allowed and
        takes the narrowest that fits. `word_ids` and `sequence_ids` are -1 where there is no token.
        `text_pair`, `return_offsets_mapping` and `return_tensors="np"` are transformers' spellings.
        """
        if return_tensors not in ("np", None):
            raise ValueError(f"return_tensors is {return_tensors!r}; the arrays are always numpy's")
        split = is_split_into_words
        texts, pairs = segment_rows(texts, text_pair if pairs is None else pairs, split)
        layout = self._layout(pairs is not None, add_special_tokens)
        strategy, limit = self._limit(truncation, max_length)
        check_widths(padding, pad_to, pad_to_multiple_of, limit if strategy else None)
        offsets = return_offsets or return_offsets_mapping
        first = self._encode(texts, split, offsets, return_word_ids)
        second = None if pairs is None else self._encode(pairs, split, offsets, return_word_ids)
        cut = self._windows(
            first, second, layout, strategy, limit, stride if return_overflowing_tokens else None
        )
        totals = cut.first_length + cut.second_length + layout.added
        width = windows.batch_width(totals, padding, limit, pad_to_multiple_of, pad_to)
        wanted = {
            "token_type_ids": self.options.token_type_ids,
            "offset_mapping": offsets,
            "special_tokens_mask": return_special_tokens_mask,
            "word_ids": return_word_ids,
            "sequence_ids": return_sequence_ids,
        }
        extra = [key for key, asked in wanted.items() if asked]
        arrays = windows.assemble(first, second, cut, layout, width, extra)
        if return_overflowing_tokens:
            arrays["overflow_to_sample_mapping"] = cut.sample.astype(np.int32)
        return arrays

    def _layout(self, pair: bool, special: bool) -> windows.Layout:
        ids = self.cls_token_id, self.sep_token_id, self.pad_token_id
        return windows.Layout(*ids, pair, special)

    def _limit(self, truncation: bool | str | None, max_length: int | None) -> tuple[str, int]:
        """The truncation strategy ("" for none) and the length that rows are cut or padded to."""
        check_choice("truncation", truncation, TRUNCATION)
        if truncation is None:
            truncation = max_length is not None
        strategy = "longest_first" if truncation is True else truncation or ""
        if max_length is None:
            max_length = self.model_max_length
        check_positive("max_length", max_length)
        return "" if strategy == "do_not_truncate" else strategy, max_length

    def _encode(
        self, rows: list[Any], split: bool, offsets: bool, word_ids: bool
    ) -> windows.Segments:
        # The fast variant gives the same ids, but tracks neither offsets nor words.
        full = offsets or word_ids
        encode = self.backend.encode_batch if full else self.backend.encode_batch_fast
        encodings = encode(rows, is_pretokenized=split, add_special_tokens=False)
        return windows.flatten(encodings, offsets, word_ids)

    def _windows(
        self,
        first: windows.Segments,
        second: windows.Segments | None,
        layout: windows.Layout,
        strategy: str,
        limit: int,
        stride: int | None,
    ) -> windows.Windows:
        lengths = first.lengths, np.zeros_like(first.lengths) if second is None else second.lengths
        if not strategy:
            return windows.whole(*lengths)
        room = limit - layout.added
        if room < 0:
            raise ValueError(
                f"max_length is {limit}, but the special tokens alone take {layout.added}"
            )
        if strategy == "only_second" and second is None:
            raise ValueError("truncation='only_second' needs pairs, and there are none")
        if stride is not None and not 0 <= stride < room:
            raise ValueError(
                f"stride is {stride}; it must be at least 0 and below the {room} tokens that "
                f"max_length={limit} leaves beside the special ones"
            )
        kept = windows.kept_lengths(*lengths, room, strategy, second is not None)
        return windows.whole(*kept) if stride is None else windows.sliding(*lengths, kept, stride)

    def encode(
        self, text: Any, pair: Any = None, *, padding: bool | str = False, **options: Any
    ) -> list[int]:
        """The ids of one text or pair; `options` are those of the call."""
        return self(text, pair, padding=padding, **options)["input_ids"][0].tolist()

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False):
        """The tokens of one text or pair."""
        ids = self.encode(text, pair, add_special_tokens=add_special_tokens)
        return self.convert_ids_to_tokens(ids)

    def decode(
        self,
        ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """One row of ids as text; the clean-up takes out spaces that English does not write."""
        text = self.backend.decode(self._checked_ids(ids), skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.options.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces:
            for found, put in CLEAN_UP.items():
                text = text.replace(found, put)
        return text

    def batch_decode(self, rows: Iterable[Any], **options: Any) -> list[str]:
        return [self.decode(ids, **options) for ids in rows]

    def _checked_ids(self, ids: Any) -> list[int]:
        array = np.atleast_1d(np.asarray(ids))
        if array.ndim != 1:
            raise ValueError(
                f"expected one row of ids, found shape {array.shape}; use batch_decode"
            )
        if not array.size:
            return []
        if array.dtype.kind not in "iu":
            raise TypeError(f"expected integer ids, found {array.dtype}")
        wrong = (array < 0) | (array >= len(self))
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"id {array[place]} at position {place} is outside the vocabulary (0 to "
                f"{len(self) - 1})"
            )
        return array.tolist()

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of one id, or a list of tokens for many."""
        tokens = [self.backend.id_to_token(index) for index in self._checked_ids(ids)]
        if np.ndim(ids) == 0:
            return tokens[0]
        special = set(self.all_special_tokens) if skip_special_tokens else ()
        return [token for token in tokens if token not in special]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of one token, or a list of ids for many; unknown ones get `unk_token_id`."""
        if isinstance(tokens, str):
            index = self.backend.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Joins word pieces into text."""
        return self.backend.decoder.decode(list(tokens))

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""
        ids = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return ids if token_ids_1 is None else [*ids, *token_ids_1, self.sep_token_id]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for [CLS] A [SEP], 1 for B [SEP]."""
        second = 0 if token_ids_1 is None else len(token_ids_1) + 1
        return [0] * (len(token_ids_0) + 2) + [1] * second

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token: those that building inputs would add, or those in the ids."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("ids that already have special tokens are one list, not two")
            special = set(self.all_special_ids)
            return [int(int(index) in special) for index in token_ids_0]
        mask = [1, *[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 3 if pair else 2

    def add_tokens(self, tokens: Any, special_tokens: bool = False) -> int:
        """Adds tokens that text is searched for first; says how many were not such tokens yet.

        Those new to the vocabulary get ids at its end, for which the model needs embeddings: see
        `check_model`.
        """
        single = isinstance(tokens, str | tokenizers.AddedToken)
        tokens = [tokens] if single else list(tokens)
        for index, token in enumerate(tokens):
            if not isinstance(token, str | tokenizers.AddedToken):
                raise TypeError(f"tokens[{index}] is {type(token).__name__}, expected str")
            if not str(token):
                raise ValueError(f"tokens[{index}] is empty")
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        return add(tokens)

    def check_model(self, vocab_size: int) -> None:
        """Raises if some token's id is beyond a model's `vocab_size` embeddings."""
        if len(self) > vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self)} tokens and the model {vocab_size} embeddings, so "
                f"{self.backend.id_to_token(vocab_size)!r} (id {vocab_size}) has none; use the "
                "model's own tokenizer, or give the model more embeddings"
            )
        if len(self) < vocab_size:
            logger.info(
                "the tokenizer has %d tokens, the model %d embeddings; the rest are never used",
                len(self),
                vocab_size,
            )

    def get_vocab(self) -> dict[str, int]:
        return self.backend.get_vocab()

    @property
    def vocab_size(self) -> int:
        """How many tokens the vocabulary has, without those added to it; `len` counts all."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def all_special_tokens(self) -> list[str]:
        added = self.backend.get_added_tokens_decoder().values()
        extra = [token.content for token in added if token.special]
        return list(dict.fromkeys([*special_tokens(self.options), *extra]))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} tokens, {self.options})"
