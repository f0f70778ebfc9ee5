"""WordPiece vocabularies: read from vocab.txt, trained, and made into BERT's pipeline."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
MAX_CHARS_PER_WORD = 100
# Exactly what str.split() splits on, which is how BERT without basic tokenisation finds words.
WHITESPACE = r"[\s\x1c-\x1f]+"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """How text becomes pieces. `strip_accents=None` follows `lowercase`, as in the original BERT.

    With `do_basic_tokenize=False` text is split on whitespace alone: nothing is cleaned, lowercased
    or split off. `never_split` tokens stay whole wherever they stand as words of their own, in
    exactly the case given. `token_type_ids=False` is for DistilBERT, which takes none.
    """

    lowercase: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    clean_text: bool = True
    do_basic_tokenize: bool = True
    never_split: tuple[str, ...] = ()
    wordpieces_prefix: str = "##"
    pad_token: str = "[PAD]"
    unk_token: str = "[UNK]"
    cls_token: str = "[CLS]"
    sep_token: str = "[SEP]"
    mask_token: str = "[MASK]"
    model_max_length: int = 512
    token_type_ids: bool = True
    clean_up_tokenization_spaces: bool = False

    def __post_init__(self):
        never_split = self.never_split
        if isinstance(never_split, str) or not all(isinstance(token, str) for token in never_split):
            raise TypeError(f"never_split must be a collection of str, got {never_split!r}")
        object.__setattr__(self, "never_split", tuple(never_split))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expected: Any = type(field.default)
            if field.name == "strip_accents":
                if value is not None and not isinstance(value, bool):
                    raise TypeError(f"strip_accents must be True, False or None, got {value!r}")
            elif not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
                raise TypeError(f"{field.name} must be {expected.__name__}, got {value!r}")
            elif value == "":
                raise ValueError(f"{field.name} must not be empty")
        if self.model_max_length < 3:
            raise ValueError(
                f"model_max_length is {self.model_max_length}; the special tokens alone take 3"
            )


def read_vocab(path: str | Path) -> dict[str, int]:
    """The tokens of a vocab.txt by line number; blank lines and duplicates are errors."""
    # Only line feeds end a line: the Chinese vocabulary has U+2028 as a token.
    lines = read_text(path).split("\n")
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: the vocabulary is empty")
    vocab: dict[str, int] = {}
    for index, token in enumerate(lines):
        if not token:
            raise ValueError(f"{path}: line {index + 1} is blank, so a token is missing there")
        if token in vocab:
            raise ValueError(
                f"{path}: {token!r} is on line {vocab[token] + 1} and again on line {index + 1}; "
                "every token needs an id of its own"
            )
        vocab[token] = index
    return vocab


def read_text(path: str | Path) -> str:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start}); "
            "convert the file to UTF-8 first"
        ) from None


def build_backend(
    vocab: dict[str, int], options: TokenizerOptions, source: str | Path
) -> tokenizers.Tokenizer:
    """The `tokenizers` pipeline of BERT over `vocab`; `source` names the vocabulary in errors."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            vocab,
            unk_token=options.unk_token,
            continuing_subword_prefix=options.wordpieces_prefix,
            max_input_chars_per_word=MAX_CHARS_PER_WORD,
        )
    )
    set_text_rules(backend, options)
    backend.decoder = decoders.WordPiece(prefix=options.wordpieces_prefix)
    return finish_backend(backend, options, source)


def set_text_rules(backend: tokenizers.Tokenizer, options: TokenizerOptions) -> None:
    """Sets what happens to text before WordPiece."""
    if options.do_basic_tokenize:
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=options.clean_text,
            handle_chinese_chars=options.tokenize_chinese_chars,
            strip_accents=options.strip_accents,
            lowercase=options.lowercase,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        backend.normalizer = None  # pyright: ignore[reportAttributeAccessIssue]
        backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WHITESPACE), "removed")


def finish_backend(
    backend: tokenizers.Tokenizer, options: TokenizerOptions, source: str | Path
) -> tokenizers.Tokenizer:
    """Registers BERT's layout and the special and never-split tokens, which must be known."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for name in SPECIAL_TOKENS:
        token = getattr(options, name)
        if backend.token_to_id(token) is None:
            raise ValueError(
                f"{source}: the vocabulary has no {token!r} ({name}); add the line, or say which "
                f"token it is with {name}=…"
            )
        # Adding a token again would overwrite the flags that a tokenizer.json gave it.
        if token not in known:
            backend.add_special_tokens([token])
    for token in options.never_split:
        if backend.token_to_id(token) is None:
            raise ValueError(
                f"{source}: never_split token {token!r} is not in the vocabulary, so it could only "
                f"ever be {options.unk_token}"
            )
        if token not in known and token not in special_tokens(options):
            backend.add_tokens([tokenizers.AddedToken(token, single_word=True, normalized=False)])
    cls, sep = options.cls_token, options.sep_token
    backend.post_processor = processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )
    # A tokenizer.json may carry the settings of whoever saved it; here they are call arguments.
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_tokens(options: TokenizerOptions) -> list[str]:
    return [getattr(options, name) for name in SPECIAL_TOKENS]


def train_vocab(
    texts: Iterable[str], vocab_size: int, options: TokenizerOptions, min_frequency: int
) -> dict[str, int]:
    """Learns a WordPiece vocabulary whose first ids are the special and the never-split tokens.

    Goes over `texts` twice, so an iterator is first read into memory.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one str; train on an iterable of str")
    texts = list(texts) if isinstance(texts, Iterator) else texts
    reserved = list(dict.fromkeys([*special_tokens(options), *options.never_split]))
    prefix = options.wordpieces_prefix
    letters = _train(texts, 0, reserved, options, min_frequency)
    if len(letters) == len(reserved):
        raise ValueError("texts hold no word to train a vocabulary on")
    if len(letters) > vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the characters of texts and special tokens already "
            f"make {len(letters)}"
        )
    # The library numbers the inner letters in the order of a hash table and breaks ties between
    # merges by number, so that two runs would differ; reserved tokens are numbered as they come.
    inner = sorted(t for t in letters if t.startswith(prefix) and len(t) > len(prefix))
    ordered = list(dict.fromkeys([*reserved, *inner]))
    return _train(texts, vocab_size, ordered, options, min_frequency)


def _train(
    texts: Iterable[str],
    vocab_size: int,
    reserved: list[str],
    options: TokenizerOptions,
    min_frequency: int,
) -> dict[str, int]:
    prefix = options.wordpieces_prefix
    model = models.WordPiece(unk_token=options.unk_token, continuing_subword_prefix=prefix)
    backend = tokenizers.Tokenizer(model)
    set_text_rules(backend, options)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=reserved,
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    backend.train_from_iterator(_checked(texts), trainer)
    return backend.get_vocab()


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is {type(text).__name__}, expected str")
        yield replace_surrogates(text)[0]


def replace_surrogates(text: str) -> tuple[str, int]:
    """Puts U+FFFD for lone surrogates, which UTF-8 cannot hold, and says how many there were."""
    return (text, 0) if text.isascii() else LONE_SURROGATE.subn("\ufffd", text)
