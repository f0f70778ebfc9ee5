"""`from_config` and `load`: a model from a configuration, or from files."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jbert.backend import check_devices
from jbert.config import ConfigError, ModelConfig, read_config_json
from jbert.execution import Execution
from jbert.formats import open_weights
from jbert.initial import init_params
from jbert.loaded import Bert, architecture_name, build_module, decoder_config
from jbert.locate import locate
from jbert.models import REGISTRY, architecture, config_from_dict
from jbert.processes import from_first_on, together_on
from jbert.restore import from_stored, from_weights
from jbert.sharding import EVERYTHING, Rules
from jbert.stored import is_step, step_config, stored_in, tokenizer_directory
from jbert.tokenizer import Tokenizer

logger = logging.getLogger("jbert")

# The bare encoder of a model that was saved with a head: None means the task it was saved with.
ENCODER = "encoder"


def from_config(
    config: ModelConfig | Mapping[str, Any],
    task: str | None = None,
    seed: int = 0,
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
    dtype: Any = "float32",
    param_dtype: Any = "float32",
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "auto",
    mesh: Mesh | None = None,
    rules: str | Rules | None = None,
    tokenizer: Any = None,
    **config_overrides: Any,
) -> Bert:
    """A model with random weights, drawn from `seed`.

    config: a configuration, or the contents of a config.json.
    task:   None for the bare encoder, or a task name such as "masked_lm".
    The other options are those of `load`; any further keyword replaces a field of the config.
    """
    check_devices()
    if isinstance(config, Mapping):
        config = config_from_dict(config)
    changes = head_changes(num_labels, id2label, problem_type) | config_overrides
    config = decoder_config(config.replace(**changes) if changes else config, task)
    execution = Execution(dtype, param_dtype, remat, scan_layers, attention)
    module = build_module(config, task, execution)
    rules = EVERYTHING if rules is None else rules
    params = init_params(module, seed, mesh, rules)
    return Bert(config, module, params, tokenizer, task, mesh, rules)


def head_changes(num_labels, id2label, problem_type) -> dict[str, Any]:
    """The label options of `load` that were given, as fields of the configuration."""
    given = {"num_labels": num_labels, "id2label": id2label, "problem_type": problem_type}
    return {name: value for name, value in given.items() if value is not None}


def load(
    name: str | Path,
    task: str | None = None,
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
    dtype: Any = "float32",
    param_dtype: Any = "float32",
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "auto",
    mesh: Mesh | None = None,
    rules: str | Rules | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    seed: int = 0,
    **config_overrides: Any,
) -> Bert:
    """A published or saved model, with its weights and tokenizer.

    name:     a short name ("mobilebert-uncased"), a hub id ("google/mobilebert-uncased"), a
              directory, or a weight file beside its config.json. Of a training run's directory
              the finished model, else the best checkpoint, else the newest; `source` says which.
    task:     a task name such as "masked_lm". None is the bare encoder, or for a model written by
              `jbert.save` or by a training its own task; "encoder" is always the bare encoder.
    num_labels, id2label, problem_type: of the head; from the checkpoint where not given.
    dtype, param_dtype: of the computation and of the stored parameters, by name.
    remat, scan_layers, attention: see jbert.Execution.
    mesh, rules: where parameters lie, see jbert.make_mesh and jbert.sharding.RULES.
    revision, cache_dir, local_files_only: of a model on the hub.
    seed:     initialises a head that the checkpoint does not have; a warning names its weights.
    Any further keyword replaces a field of the configuration.

    With a mesh of several jax.distributed processes all of them call this.
    """
    check_devices()
    execution = Execution(dtype, param_dtype, remat, scan_layers, attention)
    changes = head_changes(num_labels, id2label, problem_type) | config_overrides
    with together_on(mesh):
        path, source = locate(name, revision, cache_dir, local_files_only)
    # Of a run that goes on, another process may already see another checkpoint as the best.
    chosen = from_first_on(mesh, str(path) if is_step(path) else None)
    if chosen is not None:
        path, source = Path(chosen), chosen
    directory = path if path.is_dir() else path.parent
    with together_on(mesh):
        stored = stored_in(path)
        if stored is not None:
            stored.verify()
            task = stored.task if task is None else task
        stored_config = read_config(directory, path)
    task = None if task == ENCODER else task
    if num_labels == stored_config.num_labels and id2label is None:
        # Nothing new: renewing the labels would forget their names.
        del changes["num_labels"]
    config = stored_config.replace(**changes) if changes else stored_config
    module = build_module(decoder_config(config, task), task, execution)
    rules = EVERYTHING if rules is None else rules
    new_head = num_labels is not None or id2label is not None
    if stored is None:
        params = from_weights(path, module, task, mesh, rules, seed, new_head)
    else:
        params = from_stored(
            stored, source, stored_config, module, task, mesh, rules, seed, new_head
        )
    tokenizer = read_tokenizer(directory, module.config)
    return Bert(module.config, module, params, tokenizer, task, mesh, rules, source)


def default_task(name: str | Path, revision: str | None = None) -> str | None:
    """The task a checkpoint was saved with: jbert's own record, or config.json's architectures."""
    path, _ = locate(name, revision)
    directory = path if path.is_dir() else path.parent
    stored = stored_in(directory)
    if stored is not None:
        return stored.task
    config = read_config(directory, path)
    found = config.extra.get("architectures") or []
    # transformers has two names for one class, BertLMHeadModel and (in Flax) BertForCausalLM.
    by_name = {
        name: task
        for task, kind in architecture(config.model_type).tasks.items()
        for name in (architecture_name(config, task), kind.__name__)
    }
    return next((by_name[name] for name in found if name in by_name), None)


def read_config(directory: Path, weights: Path) -> ModelConfig:
    """The configuration beside some weights; its family from their names where it says none."""
    if is_step(directory):
        return config_from_dict(step_config(directory))
    for name in ("config.json", "bert_config.json"):
        if (directory / name).is_file():
            values = read_config_json(directory / name)
            break
    else:
        raise FileNotFoundError(
            f"{directory}: expected a config.json beside the weights, found none; it says how "
            "large the model is. Copy it from where the weights come from"
        )
    if "model_type" not in values:
        family = infer_family(weights)
        logger.warning("%s: no model_type; the weights' names say %r", directory, family)
        values = {**values, "model_type": family}
    return config_from_dict(values)


def infer_family(weights: Path) -> str:
    """The family whose weights these are, by the names that only it has."""
    with open_weights(weights) as tensors:
        names = " ".join(tensors)
    for sign, family in _SIGNS.items():
        if sign in names:
            return family
    raise ConfigError(
        f"{weights}: neither a config.json nor the weights' names say which family this is; "
        f"add model_type to the config.json, one of {sorted(REGISTRY)}"
    )


# In this order: BERT's names occur in the others.
_SIGNS = {
    "key_conv_attn_layer": "convbert",
    "conv_attn_key": "convbert",
    "embedding_transformation": "mobilebert",
    "q_lin": "distilbert",
    "word_embeddings": "bert",
}


def read_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer in a model's directory, checked against its vocabulary; None without one."""
    if is_step(directory):
        directory = tokenizer_directory(directory)
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        logger.info("%s: no tokenizer.json and no vocab.txt; bert.tokenizer is None", directory)
        return None
    tokenizer = Tokenizer.from_pretrained(directory)
    tokenizer.check_model(config.vocab_size)
    return tokenizer
