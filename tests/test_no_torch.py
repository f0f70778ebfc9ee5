"""Loading, saving and exporting where torch, TensorFlow and transformers cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import disk

import jbert

CYCLE = '''
import importlib.machinery, sys

class Refuse:
    """They are there, as others look whether they are, but cannot be imported."""

    def find_spec(self, name, *rest):
        if name in ("torch", "tensorflow", "transformers", "keras", "tf_keras"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} was imported")

sys.meta_path.insert(0, Refuse())
import jax
jax.config.update("jax_platforms", "cpu")
import jbert, jbert.cli

published, out = sys.argv[1:]
for kind in ("safetensors", "bin"):
    bert = jbert.load(f"{published}/{kind}", "masked_lm")
    logits = bert(**bert.tokenizer(["The capital of France is [MASK]."])).logits
    assert logits.shape == (1, 9, 99), logits.shape
jbert.save(bert, f"{out}/saved")
again = jbert.load(f"{out}/saved")
jbert.export(again, f"{out}/exported")
assert jbert.cli.main(["info", f"{out}/exported"]) == 0
assert jbert.cli.main(["convert", f"{out}/exported", f"{out}/converted"]) == 0
'''


def test_nothing_needs_torch_tensorflow_or_transformers(tmp_path):
    model = disk.bert("bert", "masked_lm")
    for kind, file in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        disk.publish(tmp_path / kind, model, file=file)
        disk.vocabulary(tmp_path / kind)
    finished = subprocess.run(
        [sys.executable, "-c", CYCLE, str(tmp_path), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(jbert.__file__).parents[1])},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    for name in ("saved", "converted"):
        disk.assert_same(jbert.load(tmp_path / "out" / name).params, model.params)
