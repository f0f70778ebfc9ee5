"""The numpy dtypes behind each format's spelling of them."""

import ml_dtypes
import numpy as np

BY_NAME: dict[str, np.dtype] = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}


def spelled(spellings: dict[str, str]) -> dict[str, np.dtype]:
    """A format's table of dtypes: {its spelling: numpy's name}, as {its spelling: dtype}."""
    return {theirs: BY_NAME[ours] for theirs, ours in spellings.items()}
