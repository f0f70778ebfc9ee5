"""The shapes that layers, heads and kernels declare are those they are called with."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKED = ["jbert.layers", "jbert.attention", "jbert.heads", "jbert.convolution"]
SCRIPT = """
import sys
from jaxtyping import install_import_hook

with install_import_hook({checked}, "beartype.beartype"):
    import jbert
import jax
import tiny

for arch in tiny.ARCHITECTURES:
    module, params = tiny.model(arch, "masked_lm")
    inputs = tiny.batch(arch)
    jax.eval_shape(lambda p: module.apply({{"params": p}}, **inputs), params)
{broken}
"""
# A two-dimensional input to a layer that says it takes three.
BROKEN = """
import jax.numpy as jnp
from jbert.layers import HeadsIn
HeadsIn(2, 4, 0.02, jbert.Execution()).init(jax.random.key(0), jnp.ones((3, 8)))
"""


@pytest.mark.parametrize(("broken", "code"), [("", 0), (BROKEN, 1)])
def test_declared_shapes_hold(broken, code):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(checked=CHECKED, broken=broken)],
        env={"PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    assert not code or "b l d" in done.stderr or "TypeCheckError" in done.stderr
