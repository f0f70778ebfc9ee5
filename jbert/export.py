"""`export`: a model for others to load, as Hugging Face's files or as StableHLO."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbert import stablehlo
from jbert.atomic import replacing
from jbert.backend import lowering_for
from jbert.card import Training, keep_readme, write_card
from jbert.convert import TABLES, weights
from jbert.loaded import Bert, unrolled
from jbert.processes import gathered, together
from jbert.save import write_config
from jbert.stack import unstack_layers
from jbert.trees import flatten, unflatten

FORMATS = ("safetensors", "stablehlo")
# The platforms that one StableHLO file runs on.
PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    bert: Bert,
    directory: str | Path,
    format: str = "safetensors",
    *,
    force: bool = False,
    training: Training | None = None,
) -> None:
    """Write a model for deployment into `directory`, which appears whole or not at all.

    format: "safetensors", a Hugging Face directory that transformers loads unchanged; or
            "stablehlo", the compiled function for any batch size and length, which
            `load_stablehlo` runs with nothing but jax.
    force:  replace what the directory holds now, but for a README.md that is not jbert's.
    training: how the model was made, for the model card that comes with safetensors.

    Of several jax.distributed processes all call this; the first one writes what all of them hold.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {FORMATS}")
    first = jax.process_index() == 0
    with together():
        if first:
            directory = fresh_directory(directory, force)
    params = {}
    for path, leaf in flatten(unstack_layers(bert.params)).items():
        whole = gathered(leaf)
        if first:
            params[path] = whole
    with together():
        if first:
            _export(bert, params, Path(directory), format, training)


def _export(
    bert: Bert, params: dict[str, Any], directory: Path, format: str, training: Training | None
) -> None:
    with replacing(directory, bert.num_bytes()) as staging:
        keep_readme(directory, staging)
        if format == "safetensors":
            _write_safetensors(bert, params, staging)
            write_card(bert, staging, directory.name, format, training)
        else:
            _write_stablehlo(bert, params, staging)
        if bert.tokenizer is not None:
            bert.tokenizer.save(staging)


def fresh_directory(directory: str | Path, force: bool) -> Path:
    """The absolute path of a directory to create; one that holds anything needs `force`."""
    directory = Path(directory).expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; expected a directory to write to")
    if directory.is_dir() and any(directory.iterdir()) and not force:
        raise FileExistsError(f"{directory} is not empty; choose another, or force it")
    return directory


def _write_safetensors(bert: Bert, params: dict[str, Any], directory: Path) -> None:
    if bert.task == "question_answering" and bert.config.num_labels != 2:
        # transformers takes the width of this head, a start and an end, from there.
        bert = dataclasses.replace(bert, config=bert.config.replace(num_labels=2))
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    table, tied = TABLES[bert.config.model_type], bert.config.tie_word_embeddings
    arrays = weights.export(params, table, bert.task, tied)
    write_config(bert, directory, dtype=bert.execution.param_dtype)
    path = directory / "model.safetensors"
    try:
        # transformers refuses a file that does not say it was made for PyTorch.
        save_file(arrays, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written: {error}") from error
    # The library makes its files readable to their owner alone.
    shutil.copymode(directory / "config.json", path)


def _write_stablehlo(bert: Bert, params: dict[str, Any], directory: Path) -> None:
    names = ["input_ids", "attention_mask"]
    if bert.config.model_type != "distilbert":
        names.append("token_type_ids")
    program = _program(bert, params, names)
    (directory / stablehlo.PROGRAM).write_bytes(program)
    arrays: Any = {path: _bits(leaf) for path, leaf in params.items()}
    np.savez(directory / stablehlo.WEIGHTS, **arrays)
    signature = {
        "task": bert.task,
        "inputs": names,
        "rank": 3 if bert.module.has_choices else 2,
        "max_length": bert.config.max_position_embeddings,
        # The program does not look at its inputs' values, and would answer NaN or worse.
        "below": {name: _below(bert, name) for name in names},
        # zip files check their contents, compiled programs do not.
        "sha256": hashlib.sha256(program).hexdigest(),
        "params": {path: str(leaf.dtype) for path, leaf in params.items()},
    }
    text = json.dumps(signature, indent=2) + "\n"
    (directory / stablehlo.SIGNATURE).write_text(text, encoding="utf-8")
    # The loader goes along, so that whoever runs the model needs no jbert.
    source = Path(stablehlo.__file__).read_text(encoding="utf-8")
    (directory / "load_model.py").write_text(source, encoding="utf-8")
    write_config(bert, directory)


def _program(bert: Bert, params: dict[str, Any], names: list[str]) -> bytes:
    """The serialised forward pass, for any batch size and any length that has positions."""
    # Kernels made for one kind of device would not run on the others.
    execution = dataclasses.replace(unrolled(bert.module).execution, attention="xla")
    module = bert.module.clone(execution=execution)

    def forward(flat, inputs):
        output: Any = module.apply({"params": unflatten(flat)}, **inputs)
        return {name: output[name] for name in output.keys()}

    dimensions = "b, c, l" if module.has_choices else "b, l"
    limit = bert.config.max_position_embeddings
    shape = jax.export.symbolic_shape(dimensions, constraints=[f"l <= {limit}"])
    inputs = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
    specs = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    with lowering_for("cpu"):
        exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)(specs, inputs)
    return bytes(exported.serialize())


def _below(bert: Bert, name: str) -> int:
    fields = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}
    return getattr(bert.config, fields[name]) if name in fields else 2


def _bits(leaf: Any) -> np.ndarray:
    # npz has no bfloat16; the signature says what these integers are.
    values = np.asarray(leaf)
    return values.view(np.uint16) if leaf.dtype == jnp.bfloat16 else values
