"""The model card: a README.md that says what a model is, how it was made and how to load it.

Its front matter is what the Hugging Face hub reads. A README.md that somebody else wrote, or has
changed, is never replaced, and no text of a user's can become markup.
"""

import dataclasses
import hashlib
import html
import json
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jbert.loaded import Bert, architecture_name
from jbert.training.config import RunConfig
from jbert.training.directory import write_whole
from jbert.version import __version__

logger = logging.getLogger("jbert")

CARD, TRAINING = "README.md", "training.json"
# By task: the hub's and jbert's name of the pipeline, and the class that loads it in transformers.
_PIPELINES = {
    None: "feature-extraction",
    "pretraining": "fill-mask",
    "masked_lm": "fill-mask",
    "causal_lm": "text-generation",
    "next_sentence": None,
    "sequence_classification": "text-classification",
    "multiple_choice": "multiple-choice",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "replaced_token_detection": None,
}
_AUTO = {
    "pretraining": "AutoModelForPreTraining",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "next_sentence": "AutoModelForNextSentencePrediction",
    "sequence_classification": "AutoModelForSequenceClassification",
    "multiple_choice": "AutoModelForMultipleChoice",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}
# Where the hub's names of data sets and metrics are not those of TFDS and jbert.
_HUB_DATASETS = {
    "glue": "nyu-mll/glue",
    "squad": "rajpurkar/squad",
    "squad/v2.0": "rajpurkar/squad_v2",
    "conll2003": "eriktks/conll2003",
}
_HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "exact": "exact_match"}
# Fields of a run that say where and how it ran, not what it made.
_UNTOLD = ("output_dir", "resume", "overwrite", "logging", "cluster", "checkpoints", "seeds")
_MOST_LABELS, _LONGEST = 20, 500


@dataclasses.dataclass(frozen=True)
class Training:
    """What is known of how a model was made.

    settings:   the run's configuration, by dotted names.
    figures:    the finished model's, by split.
    base_model: the hub id of the model that it started from, or None.
    made_with:  versions and devices.

    It lies beside a run's model as training.json, and goes along when `jbert convert` writes the
    model in another format.
    """

    settings: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, float]]
    base_model: str | None = None
    made_with: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_run(cls, run: RunConfig, figures: Mapping[str, Any], source: str | None) -> "Training":
        devices = jax.devices()
        made_with = {
            "jbert": __version__,
            "jax": jax.__version__,
            "devices": f"{len(devices)} × {devices[0].device_kind}",
        }
        settings = dict(_flat(dataclasses.asdict(run)))
        return cls(settings, figures, _hub_id(source), made_with)

    @classmethod
    def read(cls, directory: Path) -> "Training | None":
        """What a run left in a model's directory; None where there is none that can be read."""
        path = directory / TRAINING
        if not path.is_file():
            return None
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            tables = found.settings, found.made_with, found.figures, *found.figures.values()
            if not all(isinstance(table, Mapping) for table in tables):
                raise TypeError("expected objects")
        except (ValueError, TypeError, AttributeError) as error:
            logger.warning("%s: not what a run writes (%s); the card goes without", path, error)
            return None
        return found

    def write(self, directory: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"
        write_whole(directory / TRAINING, text)


def write_card(
    bert: Bert, directory: Path, name: str, format: str, training: Training | None = None
) -> None:
    """README.md beside a model's files, unless there is one that jbert did not write.

    name:   what the model is called.
    format: "orbax" or "safetensors".
    """
    if training is not None:
        training.write(directory)
    if is_own(directory / CARD):
        logger.info("%s stays as it is: it was written or changed by hand", directory / CARD)
        return
    write_whole(directory / CARD, model_card(bert, name, format, training))


def write_run_card(bert: Bert, directory: Path, run: RunConfig, figures: Mapping[str, Any]) -> None:
    """The card of a run's finished model, in `directory`; `bert` still knows what it began as."""
    training = Training.of_run(run, figures, bert.source)
    name = Path(run.output_dir).expanduser().resolve().name
    write_card(bert, directory, name, "orbax", training)


def keep_readme(old: Path, new: Path) -> None:
    """Take a user's README.md along when `new` is about to replace the directory `old`."""
    if is_own(old / CARD):
        shutil.copy2(old / CARD, new / CARD)


def is_own(path: Path) -> bool:
    """Whether a README.md is a user's: not written by jbert, or changed since."""
    if not path.is_file():
        return False
    text, _, seal = path.read_bytes().rpartition(b"<!-- jbert ")
    return not text or seal.strip() != _seal(text)


def _seal(text: bytes) -> bytes:
    return b"wrote this card: " + hashlib.sha256(text).hexdigest().encode() + b" -->"


# -- the text ----------------------------------------------------------------------------------


def model_card(bert: Bert, name: str, format: str, training: Training | None = None) -> str:
    """The text of the card; its last line says that it is jbert's, and unchanged."""
    sections = [
        f"---\n{_front_matter(bert, name, format, training)}\n---",
        f"# {escape(name)}",
        f"{architecture_name(bert.config, bert.task)} with {bert.num_params():,} parameters in "
        f"{bert.execution.param_dtype}, written by jbert {__version__}.",
        *_loading(bert, format),
        "## Architecture",
        _table(_architecture(bert)),
    ]
    if training is not None:
        sections += _trained(training)
    sections += [
        "## Not said here",
        "The license, the language, what the model is meant for and where it fails: jbert does "
        "not know. Add them, and `license:` to the lines at the top; a card that was changed "
        "stays when the model is written again.",
    ]
    text = "\n\n".join(sections) + "\n\n"
    return text + "<!-- jbert " + _seal(text.encode()).decode() + "\n"


def _front_matter(bert: Bert, name: str, format: str, training: Training | None) -> str:
    from huggingface_hub import ModelCardData

    dataset = _dataset(training)[1] if training else None
    results = list(_eval_results(bert.task, training)) if training else []
    data = ModelCardData(
        library_name="transformers" if format == "safetensors" else "jbert",
        pipeline_tag=_PIPELINES[bert.task],
        tags=["jbert", "jax", bert.config.model_type],
        base_model=training.base_model if training else _hub_id(bert.source),
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        **({"model_name": _plain(name), "eval_results": results} if results else {}),
    )
    return data.to_yaml()


def _eval_results(task: str | None, training: Training) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    name, hub_id = _dataset(training)
    for split, figures in training.figures.items():
        for metric, value in figures.items():
            if isinstance(value, int | float) and math.isfinite(value):
                yield EvalResult(
                    task_type=_PIPELINES[task] or str(task).replace("_", "-"),
                    dataset_name=_plain(name),
                    dataset_type=hub_id or re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "-",
                    dataset_split=_plain(split),
                    metric_type=_HUB_METRICS.get(metric, _plain(metric)),
                    metric_name=_plain(metric),
                    metric_value=float(value),
                )


def _dataset(training: Training) -> tuple[str, str | None]:
    """What the data are called, and their id on the hub where they are known to be there."""
    dataset = str(training.settings.get("data.dataset") or "")
    if not dataset:
        files = [training.settings.get(f"data.{name}") for name in ("train_file", "train_files")]
        return _told(next(filter(None, files), "unnamed data")), None
    name = dataset.split(":")[0]
    return dataset, _HUB_DATASETS.get(name, _HUB_DATASETS.get(name.split("/")[0]))


def _loading(bert: Bert, format: str) -> Iterator[str]:
    yield "## Load it"
    pipeline = _PIPELINES[bert.task] if bert.tokenizer is not None else None
    yield "In JAX, where `directory` is this directory, or the model's name on the hub:"
    lines = ["import jbert", "", f'bert = jbert.load(directory, task="{bert.task or "encoder"}")']
    if pipeline:
        lines.append(f'ask = jbert.pipeline("{pipeline}", model=bert)')
    yield "```python\n" + "\n".join(lines) + "\n```"
    if format == "orbax":
        yield "For transformers, write Hugging Face's files first:"
        yield "```bash\njbert convert DIRECTORY for-transformers --to safetensors\n```"
        directory = '"for-transformers"'
    else:
        directory = "directory"
    auto = _AUTO.get(bert.task or "", "AutoModel")
    names = [auto, "AutoTokenizer"] if bert.tokenizer is not None else [auto]
    lines = [f"from transformers import {', '.join(sorted(names))}", ""]
    if bert.tokenizer is not None:
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained({directory})")
    lines.append(f"model = {auto}.from_pretrained({directory})")
    yield "In PyTorch, with transformers:"
    yield "```python\n" + "\n".join(lines) + "\n```"
    yield from _limits(bert)


def _limits(bert: Bert) -> Iterator[str]:
    """What transformers makes less of than jbert does."""
    if bert.task not in _AUTO and bert.task is not None:
        yield "transformers has no class for this head, and loads the encoder below it."
    if getattr(bert.config, "position_embedding_type", "absolute") not in (None, "absolute"):
        yield "Relative positions need transformers 4: version 5 no longer has them."


def _architecture(bert: Bert) -> dict[str, Any]:
    config: Any = bert.config
    rows = {
        "family": config.model_type,
        "task": bert.task or "none: the encoder alone",
        "layers": config.num_hidden_layers,
        "hidden size": config.hidden_size,
        "attention heads": config.num_attention_heads,
        "vocabulary": f"{config.vocab_size:,}",
        "longest input": f"{config.max_position_embeddings:,} tokens",
    }
    if bert.task in ("sequence_classification", "token_classification"):
        names = [config.id2label[number] for number in sorted(config.id2label)]
        more = len(names) - _MOST_LABELS
        names = names[:_MOST_LABELS] + ([f"and {more} more, see config.json"] if more > 0 else [])
        rows |= {"labels": ", ".join(map(str, names))}
        if config.problem_type:
            rows |= {"kind of problem": config.problem_type}
    return rows


def _trained(training: Training) -> Iterator[str]:
    settings = {
        name: value
        for name, value in training.settings.items()
        if name.split(".")[0] not in _UNTOLD and value not in (None, "", [], {})
    }
    data = {name: value for name, value in settings.items() if name.split(".")[0] == "data"}
    rest = {name: value for name, value in settings.items() if name not in data}
    if data:
        yield "## Data"
        yield _table({name.removeprefix("data."): _told(value) for name, value in data.items()})
    if rest:
        yield "## Training"
        yield _table({name: _told(value) for name, value in rest.items()})
    if training.made_with:
        made = ", ".join(f"{name} {value}" for name, value in training.made_with.items())
        yield f"Made with {escape(made)}."
    if training.figures:
        yield "## Results"
        yield _figures(training.figures)


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for each in figures.values() for name in each)
    rows = [
        [split, *(_number(each.get(name)) for name in names)] for split, each in figures.items()
    ]
    return _rows(["split", *names], rows)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "–"


def _told(value: Any) -> str:
    """A setting, but of a path on this machine only its name: cards are published."""
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return Path(value).name
    if isinstance(value, list | tuple):
        return ", ".join(_told(each) for each in value)
    return str(value)


def _table(rows: Mapping[str, Any]) -> str:
    return _rows(["", ""], [[name, value] for name, value in rows.items()])


def _rows(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(head), *rows]
    text = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]])


_MARKUP = re.compile(r"[\\`*{}\[\]()#+!|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Control characters, halves of others, and what turns the direction of the text after it.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(value: Any) -> str:
    """One line of text that Markdown shows as it is."""
    text = _plain(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return html.escape(_MARKUP.sub(lambda found: "\\" + found[0], text), quote=False)


def _plain(value: Any) -> str:
    """On one line, and without what cannot be seen or stored."""
    return _UNSEEN.sub("\ufffd", " ".join(str(value).split()))


def _hub_id(source: str | None) -> str | None:
    """The repository of a model that came from the hub, as `load` writes it: id@commit."""
    found = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)@\S+", source or "")
    return found[1] if found else None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
