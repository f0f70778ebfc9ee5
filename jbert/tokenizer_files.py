"""Tokenizer files: tokenizer.json and transformers' tokenizer directories, read and written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models

from jbert.vocabulary import (
    SPECIAL_TOKENS,
    TokenizerOptions,
    build_backend,
    finish_backend,
    read_text,
    read_vocab,
    set_text_rules,
)

# Tokenizers that only differ from BERT's by name. BertJapanese and the like also read a vocab.txt,
# but cut words with another program.
FAMILY = ("Bert", "DistilBert", "MobileBert", "ConvBert", "Electra")
CLASSES = {f"{name}Tokenizer{fast}" for name in FAMILY for fast in ("", "Fast")} | {
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
}


def _read_json(path: Path, default: Any = None) -> dict[str, Any]:
    if default is not None and not path.is_file():
        return default
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_backend(
    path: str | Path, config: dict[str, Any], explicit: dict[str, Any]
) -> tuple[tokenizers.Tokenizer, TokenizerOptions]:
    """Reads a tokenizer.json; options in `explicit` win over `config`, and both over the file."""
    path = Path(path)
    content = _read_json(path)
    _check_wordpiece(content, path)
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: not a tokenizer.json that can be read ({error})") from None
    for token in content.get("added_tokens") or []:
        if (index := backend.token_to_id(token["content"])) != token["id"]:
            raise ValueError(
                f"{path}: added token {token['content']!r} has id {token['id']}, but it is the "
                f"vocabulary's token {index}"
            )
    found: dict[str, Any] = {
        "unk_token": content["model"]["unk_token"],
        "wordpieces_prefix": content["model"]["continuing_subword_prefix"],
    }
    if content.get("post_processor") is not None:
        found["cls_token"], found["sep_token"] = _layout(content["post_processor"], path)
    for name in ("wordpieces_prefix", "do_basic_tokenize"):
        if name in explicit:
            raise ValueError(f"{path} already fixes {name}; build from the vocab.txt to choose it")
    normalizer = content.get("normalizer") or {}
    standard = normalizer.get("type") == "BertNormalizer"
    if standard:
        found |= {
            "lowercase": normalizer["lowercase"],
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            "clean_text": normalizer["clean_text"],
        }
    else:
        rules = ("lowercase", "strip_accents", "tokenize_chinese_chars", "clean_text")
        if wrong := [name for name in rules if name in explicit]:
            raise ValueError(
                f"{path}: its normalizer is {normalizer.get('type')}, which {', '.join(wrong)} "
                "cannot change; build from the vocab.txt"
            )
        found["do_basic_tokenize"] = bool(normalizer)
    config = {key: value for key, value in config.items() if key != "do_basic_tokenize"}
    config.pop("wordpieces_prefix", None)
    options = TokenizerOptions(**(found | _known_never_split(config, backend) | explicit))
    if standard and content.get("pre_tokenizer") == {"type": "BertPreTokenizer"}:
        set_text_rules(backend, options)
    return finish_backend(backend, options, path), options


def _check_wordpiece(content: dict[str, Any], path: Path) -> None:
    """Raises unless the model is WordPiece and its vocabulary has the ids 0, 1, 2, …"""
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else "no"
        raise ValueError(f"{path}: expected a WordPiece tokenizer.json, found {kind} model")
    # Files from before tokenizers 0.9 do not say the type; only WordPiece has this key.
    kind = model.get("type") or ("WordPiece" if "max_input_chars_per_word" in model else "unnamed")
    if kind != "WordPiece":
        raise ValueError(f"{path}: expected a WordPiece tokenizer.json, found {kind} model")
    if not model["vocab"]:
        raise ValueError(f"{path}: the vocabulary is empty")
    by_id: dict[int, str] = {}
    for token, index in model["vocab"].items():
        if index in by_id:
            raise ValueError(f"{path}: {by_id[index]!r} and {token!r} have the same id {index}")
        by_id[index] = token
    if missing := set(range(len(by_id))) - by_id.keys():
        raise ValueError(f"{path}: no token has id {min(missing)}, but there are higher ids")


def _layout(processor: dict[str, Any], path: Path) -> tuple[str, str]:
    """The names of [CLS] and [SEP] in a post-processor, which must put them where BERT does."""
    if processor.get("type") == "BertProcessing":
        return processor["cls"][0], processor["sep"][0]
    if processor.get("type") == "TemplateProcessing":
        single, pair = (
            [
                (kind, part["id"], part["type_id"])
                for item in processor[name]
                for kind, part in item.items()
            ]
            for name in ("single", "pair")
        )
        if len(pair) == 5:
            cls, sep = pair[0][1], pair[2][1]
            front = [("SpecialToken", cls, 0), ("Sequence", "A", 0), ("SpecialToken", sep, 0)]
            back = [("Sequence", "B", 1), ("SpecialToken", sep, 1)]
            if single == front and pair == front + back:
                return cls, sep
    raise ValueError(
        f"{path}: not a BERT tokenizer: its {processor.get('type')} does not lay out a pair as "
        "[CLS] A [SEP] B [SEP]"
    )


def _known_never_split(config: dict[str, Any], backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Drops the listed tokens that the vocabulary never had: transformers ignores them too."""
    if "never_split" not in config:
        return config
    known = [token for token in config["never_split"] if backend.token_to_id(token) is not None]
    return config | {"never_split": tuple(known)}


def read_directory(
    directory: Path, explicit: dict[str, Any]
) -> tuple[tokenizers.Tokenizer, TokenizerOptions]:
    """Reads a directory as saved here, by transformers or by the original BERT code."""
    saved = _read_json(directory / "tokenizer_config.json", {})
    kind = saved.get("tokenizer_class")
    if kind is not None and kind not in CLASSES:
        raise ValueError(f"{directory}: its tokenizer_class is {kind}, not one of the BERT family")
    model_config = _read_json(directory / "config.json", {})
    names = _read_json(directory / "special_tokens_map.json", {})
    config = _options_from_config(names | saved, model_config)
    if (directory / "tokenizer.json").is_file():
        return read_backend(directory / "tokenizer.json", config, explicit)
    path = directory / "vocab.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{directory}: neither tokenizer.json nor vocab.txt is there")
    vocab = read_vocab(path)
    if "never_split" in config:
        config["never_split"] = tuple(token for token in config["never_split"] if token in vocab)
    options = TokenizerOptions(**(config | explicit))
    backend = build_backend(vocab, options, path)
    _add_saved_tokens(backend, directory, names | saved)
    return backend, options


def _options_from_config(saved: dict[str, Any], model_config: dict[str, Any]) -> dict[str, Any]:
    """transformers' tokenizer_config.json and config.json under the names used here."""
    options = {
        ours: saved[theirs]
        for theirs, ours in {"do_lower_case": "lowercase"}.items()
        if saved.get(theirs) is not None
    }
    fields = {field.name for field in dataclasses.fields(TokenizerOptions)} - {"token_type_ids"}
    options |= {name: saved[name] for name in fields if saved.get(name) is not None}
    for name in SPECIAL_TOKENS:
        if isinstance(options.get(name), dict):
            options[name] = options[name]["content"]
    limit = options.pop("model_max_length", None)
    # transformers writes 1e30 where it knows no limit.
    if limit is None or limit > 1e9:
        limit = model_config.get("max_position_embeddings")
    if limit is not None:
        options["model_max_length"] = int(limit)
    inputs = saved.get("model_input_names", ["token_type_ids"])
    options["token_type_ids"] = (
        "token_type_ids" in inputs
        and model_config.get("model_type") != "distilbert"
        and not str(saved.get("tokenizer_class")).startswith("DistilBert")
    )
    return options


def _add_saved_tokens(
    backend: tokenizers.Tokenizer, directory: Path, saved: dict[str, Any]
) -> None:
    """Adds the tokens beyond vocab.txt that a directory without tokenizer.json lists."""
    special: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        tokens = saved.get(name) or []
        tokens = tokens.values() if isinstance(tokens, dict) else tokens
        special += [token["content"] if isinstance(token, dict) else token for token in tokens]
    added: dict[int, tokenizers.AddedToken] = {}
    for token, index in _read_json(directory / "added_tokens.json", {}).items():
        added[index] = tokenizers.AddedToken(token, special=token in special)
    for index, flags in saved.get("added_tokens_decoder", {}).items():
        added[int(index)] = tokenizers.AddedToken(**flags)
    for index, token in sorted(added.items()):
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f"{directory}: added token {token.content!r} should have id {index}, but after "
                f"vocab.txt it gets {backend.token_to_id(token.content)}; a vocabulary line is lost"
            )
    known = {token.content for token in added.values()}
    backend.add_special_tokens([token for token in special if token not in known])


def write_directory(
    backend: tokenizers.Tokenizer, options: TokenizerOptions, directory: str | Path
) -> None:
    """Writes the four files that transformers' AutoTokenizer reads."""
    directory = Path(directory)
    vocab = backend.get_vocab(with_added_tokens=False)
    tokens = sorted(vocab, key=vocab.__getitem__)
    if broken := [token for token in tokens if "\n" in token or "\r" in token]:
        raise ValueError(f"token {broken[0]!r} has a line break, which vocab.txt cannot hold")
    names = {name: getattr(options, name) for name in SPECIAL_TOKENS}
    content = dataclasses.asdict(options)
    content["do_lower_case"] = content.pop("lowercase")
    content["never_split"] = list(options.never_split) or None
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if not content.pop("token_type_ids"):
        inputs.remove("token_type_ids")
    content["model_input_names"] = inputs
    content["tokenizer_class"] = _tokenizer_class(backend, options)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "tokenizer.json": backend.to_str(pretty=True),
        "vocab.txt": "\n".join(tokens),
        "tokenizer_config.json": json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True),
        "special_tokens_map.json": json.dumps(names, indent=2, ensure_ascii=False),
    }.items():
        (directory / name).write_text(text + "\n", encoding="utf-8", newline="\n")


def _tokenizer_class(backend: tokenizers.Tokenizer, options: TokenizerOptions) -> str:
    """The class under which transformers behaves the same.

    Its BertTokenizer keeps only the vocabulary of a tokenizer.json and builds the rest anew, with
    these settings fixed; PreTrainedTokenizerFast runs the file as it is.
    """
    content = json.loads(backend.to_str())
    reference = dataclasses.replace(options, clean_text=True, do_basic_tokenize=True)
    standard = tokenizers.Tokenizer(models.WordPiece({options.unk_token: 0}, unk_token="[UNK]"))
    set_text_rules(standard, reference)
    standard.decoder = decoders.WordPiece(prefix="##")
    rebuilt = json.loads(standard.to_str())
    same = all(
        content[name] == rebuilt[name] for name in ("normalizer", "pre_tokenizer", "decoder")
    )
    for name in ("continuing_subword_prefix", "max_input_chars_per_word"):
        same = same and content["model"][name] == rebuilt["model"][name]
    if not same:
        return "PreTrainedTokenizerFast"
    return "BertTokenizer" if options.token_type_ids else "DistilBertTokenizer"
