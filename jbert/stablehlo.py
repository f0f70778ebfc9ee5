"""Runs a model that was exported as StableHLO. This file is copied into every such directory as
`load_model.py`: it needs no jbert, only jax and flatbuffers, with which jax reads the program.

    model = load_stablehlo("exported")
    outputs = model(input_ids=ids, attention_mask=mask)     # a dict of arrays
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

PROGRAM, WEIGHTS, SIGNATURE = "model.stablehlo", "weights.npz", "signature.json"


def load_stablehlo(directory: str | Path) -> Callable[..., dict[str, jax.Array]]:
    """The exported function: arrays of (batch, length) by name in, a dict of outputs out."""
    directory = Path(directory).expanduser()
    missing = [n for n in (PROGRAM, WEIGHTS, SIGNATURE) if not (directory / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory}: expected a model exported as StableHLO; {', '.join(missing)} not found"
        )
    try:
        signature = json.loads((directory / SIGNATURE).read_text(encoding="utf-8"))
        program = (directory / PROGRAM).read_bytes()
        if hashlib.sha256(program).hexdigest() != signature["sha256"]:
            raise ValueError(f"the contents of {PROGRAM} have changed")
        with (directory / WEIGHTS).open("rb") as file, np.load(file) as stored:
            params = {p: _typed(stored[p], dtype) for p, dtype in signature["params"].items()}
    except Exception as error:  # damaged zip files fail in many ways
        raise ValueError(
            f"{directory}: expected a model exported as StableHLO, found {error!r}; "
            "the directory is damaged, use another copy"
        ) from error
    call = jax.jit(jax.export.deserialize(bytearray(program)).call)

    def run(**inputs: Any) -> dict[str, jax.Array]:
        return call(params, _complete(signature, inputs))

    return run


def _typed(values: np.ndarray, dtype: str) -> jax.Array:
    # bfloat16 travels as the integers of its bits.
    return jnp.asarray(values.view(jnp.dtype(dtype)))


def _complete(signature: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of the program, with defaults for the optional ones."""
    names, limit = signature["inputs"], signature["max_length"]
    unknown = sorted(set(inputs) - set(names))
    if unknown or "input_ids" not in inputs:
        raise ValueError(f"expected input_ids and optionally {names[1:]}, found {sorted(inputs)}")
    ids = np.asarray(inputs["input_ids"])
    if ids.ndim != signature["rank"] or not ids.size or ids.shape[-1] > limit:
        raise ValueError(
            f"input_ids has shape {ids.shape}; expected {signature['rank']} dimensions, none of "
            f"them empty, the last at most {limit}"
        )
    default = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    full = {name: np.asarray(inputs.get(name, default.get(name, ids))) for name in names}
    for name, values in full.items():
        below = signature["below"][name]
        if values.shape != ids.shape:
            raise ValueError(f"{name} has shape {values.shape}; expected {ids.shape}, as input_ids")
        if values.dtype.kind not in "biu":
            raise ValueError(f"{name} has dtype {values.dtype}; expected integers")
        if values.min() < 0 or values.max() >= below:
            found = f"from {values.min()} to {values.max()}"
            raise ValueError(f"{name} has values {found}; expected 0 to {below - 1}")
    return {name: values.astype(np.int32) for name, values in full.items()}
