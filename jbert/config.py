"""Configurations: frozen dataclasses with Hugging Face's field names, read from config.json."""

import dataclasses
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self

from jbert.activations import ACTIVATIONS

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


class ConfigError(ValueError):
    """A configuration that cannot be built; the message lists every field that is wrong."""


# Keys of a config.json that change what a model computes and that jbert does not implement,
# each with the values that mean "off".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "cross_attention_hidden_size": (None,),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, None, []),
    "quantization_config": (None,),
}


def default_labels(num_labels: int) -> dict[int, str]:
    return {i: f"LABEL_{i}" for i in range(num_labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every architecture's configuration has; the architectures add their own fields."""

    model_type: ClassVar[str] = ""
    # Other spellings a config.json may use for a field of this class.
    aliases: ClassVar[Mapping[str, str]] = {}
    positive: ClassVar[tuple[str, ...]] = ()
    probabilities: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()
    activations: ClassVar[tuple[str, ...]] = ("hidden_act",)

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    num_labels: int | None = None  # resolved to an int on construction
    id2label: Mapping[int, str] | None = dataclasses.field(default=None, hash=False)
    label2id: Mapping[str, int] | None = dataclasses.field(default=None, hash=False)
    problem_type: str | None = None
    tie_word_embeddings: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    # Keys of the config.json that jbert gives no meaning to; they survive a round trip.
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self):
        self._resolve_labels()
        problems = [*self._type_problems(), *self._label_problems(), *self._extra_problems()]
        # Relations between fields only make sense once each field is of its own kind.
        problems = problems or list(self.relation_problems())
        if problems:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise ConfigError(f"{type(self).__name__} is not valid:\n{lines}")

    def relation_problems(self) -> list[str]:
        """What is wrong between fields, one sentence each; architectures extend this."""
        return []

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; a new `num_labels` also renews the label names."""
        if "num_labels" in changes and "id2label" not in changes:
            changes |= {"id2label": None, "label2id": None}
        elif "id2label" in changes:
            changes.setdefault("num_labels", None)
            changes.setdefault("label2id", None)
        self._refuse_unknown(changes)
        return dataclasses.replace(self, **changes)

    # -- config.json ------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A configuration from the contents of a config.json; unknown keys are kept in `extra`."""
        found = values.get("model_type")
        if found is not None and found != cls.model_type:
            raise ConfigError(
                f"this config is of model_type {found!r}, but {cls.__name__} reads "
                f"{cls.model_type!r}; use the class of that family or jbert.models.config_from_dict"
            )
        names = cls._field_names()
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in values.items():
            field = cls.aliases.get(key, key)
            if field == "model_type":
                continue
            if field in names:
                known[field] = value
            else:
                extra[key] = value
        for key in ("id2label", "label2id"):
            if known.get(key) is not None and not isinstance(known[key], Mapping):
                raise ConfigError(f"{key} must be a JSON object, found {known[key]!r}")
        if known.get("id2label") is not None:
            # The names decide; some published files carry a stale num_labels beside them.
            known["id2label"] = {_label_id(k): v for k, v in known["id2label"].items()}
            known["num_labels"] = None
        return cls(**known, extra=extra)

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """A configuration from a config.json file, or from the directory that holds one."""
        return cls.from_dict(read_config_json(path))

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {"model_type": self.model_type}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("extra", "num_labels"):
                continue
            if callable(value):
                raise ConfigError(
                    f"{field.name} is the function {value!r}, which JSON cannot hold; "
                    f"use one of the names {sorted(ACTIVATIONS)} to save this configuration"
                )
            values[field.name] = value
        values["id2label"] = {str(i): label for i, label in (self.id2label or {}).items()}
        return {**values, **self.extra}

    def to_json(self, path: str | Path | None = None) -> str:
        """The config.json text; also written to `path` when one is given."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    # -- validation -------------------------------------------------------------------------

    @classmethod
    def _field_names(cls) -> set[str]:
        return {field.name for field in dataclasses.fields(cls)} - {"extra"}

    @classmethod
    def _refuse_unknown(cls, changes: Mapping[str, Any]) -> None:
        names = cls._field_names() | {"extra"}
        for key in changes:
            if key not in names:
                near = get_close_matches(key, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; fields: {sorted(names)}"
                raise ConfigError(f"{cls.__name__} has no field {key!r}{hint}")

    def _resolve_labels(self) -> None:
        id2label, count = self.id2label, self.num_labels
        generated = isinstance(id2label, Mapping) and id2label == default_labels(len(id2label))
        if (id2label is None or generated) and isinstance(count, int) and 0 < count < 10**6:
            id2label = default_labels(count)
        elif id2label is None and count is None:
            id2label = default_labels(2)
        if isinstance(id2label, Mapping):
            set_field = object.__setattr__
            set_field(self, "num_labels", len(id2label) if count is None else count)
            set_field(self, "id2label", dict(id2label))
            if self.label2id is None or generated:
                set_field(self, "label2id", {label: i for i, label in id2label.items()})

    def _type_problems(self) -> list[str]:
        problems = []
        value: Any
        for name in self.positive:
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                problems.append(f"{name} is {value!r}; expected an integer of at least 1")
        for name in self.probabilities:
            value = getattr(self, name)
            if value is None and name == "classifier_dropout":
                continue
            if not _is_number(value, below=1.0):
                problems.append(f"{name} is {value!r}; expected a number in [0, 1)")
        shared = ("tie_word_embeddings", "output_hidden_states", "output_attentions")
        for name in (*self.flags, *shared):
            if not isinstance(getattr(self, name), bool):
                problems.append(f"{name} is {getattr(self, name)!r}; expected true or false")
        for name in self.activations:
            value = getattr(self, name)
            if not callable(value) and value not in list(ACTIVATIONS):
                problems.append(f"{name} is {value!r}; expected one of {sorted(ACTIVATIONS)}")
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name, 0.0)
            if not _is_number(value, below=10.0):
                problems.append(f"{name} is {value!r}; expected a small number, not negative")
        pad, vocab = self.pad_token_id, self.vocab_size
        if pad is not None and not (_is_int(pad) and _is_int(vocab) and 0 <= pad < vocab):
            problems.append(
                f"pad_token_id is {pad!r}; expected null or 0 <= id < vocab_size={vocab}"
            )
        return problems

    def _label_problems(self) -> list[str]:
        count: Any = self.num_labels
        if not _is_int(count) or count < 1:
            return [f"num_labels is {count!r}; expected an integer of at least 1"]
        problems = []
        ids = sorted(self.id2label or {}, key=str)
        if ids != sorted(range(count), key=str):
            problems.append(
                f"id2label has the ids {ids}, but num_labels is {count}; "
                f"expected a name for each of 0..{count - 1}"
            )
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            problems.append(
                f"problem_type is {self.problem_type!r}; expected null or one of {PROBLEM_TYPES}"
            )
        if self.problem_type == "single_label_classification" and count == 1:
            problems.append(
                "problem_type is 'single_label_classification' and num_labels 1: the one label "
                "would always win; expected 2 labels or more, or problem_type 'regression'"
            )
        return problems

    def _extra_problems(self) -> list[str]:
        problems = []
        for key, off in _UNSUPPORTED.items():
            if key in self.extra and self.extra[key] not in off:
                problems.append(
                    f"{key} is {self.extra[key]!r}, which changes what the model computes and is "
                    f"not implemented for {self.model_type}; expected {off[0]!r}"
                )
        return problems


def divides(whole: str, part: str, config: Any) -> list[str]:
    """The complaint when field `part` does not divide field `whole`, as a list to extend."""
    numerator, denominator = getattr(config, whole), getattr(config, part)
    if numerator % denominator == 0:
        return []
    return [f"{whole} is {numerator}, which is not a multiple of {part}={denominator}"]


def read_config_json(path: str | Path) -> dict[str, Any]:
    """The object in a config.json file (or in the directory that holds one)."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a config.json, found no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: expected JSON text, found {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found a {type(values).__name__}")
    return values


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, below: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < below


def _label_id(key: Any) -> Any:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise ConfigError(f"id2label has the key {key!r}; expected whole numbers") from None
