"""How long loading BERT-base takes, and how much memory: jbert's formats beside transformers.

    python -m benchmarks.load [--rounds 5] [--layers 12]

Each measurement is a fresh process on a CPU, with the files in the page cache; the ways take
turns, round by round, so that what else the machine does falls on all alike. Seconds are until
the call returns, and until every weight has been read once, for transformers (PyTorch; where it
is installed) only maps the file and reads a weight when it is used. Memory is the peak after
that, above what the process held with everything imported.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# The files of each way: the same random weights of the bare encoder.
WAYS = {
    "jbert safetensors": "safetensors",
    "jbert .bin": "bin",
    "jbert Orbax": "orbax",
    "transformers safetensors": "safetensors",
    "transformers .bin": "bin",
}


def make(directory: Path, layers: int) -> None:
    """BERT-base with weights as a training leaves them, in three formats."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jbert

    bert = jbert.from_config(jbert.BertConfig(num_hidden_layers=layers), seed=0)
    leaves, tree = jax.tree.flatten(bert.params)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.standard_normal(x.shape, np.float32) * 0.02) for x in leaves]
    bert = jbert.Bert(bert.config, bert.module, jax.tree.unflatten(tree, leaves))
    jbert.save(bert, directory / "orbax")
    jbert.export(bert, directory / "safetensors")
    if importlib.util.find_spec("torch"):
        import torch
        from safetensors.torch import load_file

        (directory / "bin").mkdir()
        state = load_file(directory / "safetensors" / "model.safetensors")
        torch.save(state, directory / "bin" / "pytorch_model.bin")
        config = (directory / "safetensors" / "config.json").read_text()
        (directory / "bin" / "config.json").write_text(config)


def measure(way: str, directory: Path) -> None:
    """Load once and print the seconds, twice, and the bytes at the peak beyond the imports."""
    import time

    import numpy as np

    if way.startswith("jbert"):
        import jax

        jax.config.update("jax_platforms", "cpu")
        import orbax.checkpoint  # noqa: F401

        import jbert

        jax.block_until_ready(jax.numpy.ones(1))
        load = lambda: jax.block_until_ready(jbert.load(directory).params)  # noqa: E731
        arrays = lambda params: map(np.asarray, jax.tree.leaves(params))  # noqa: E731
    else:
        import torch
        import transformers

        torch.ones(1)
        transformers.BertModel  # noqa: B018 — imported lazily, on this access
        load = lambda: transformers.BertModel.from_pretrained(directory)  # noqa: E731
        arrays = lambda model: (p.detach().numpy() for p in model.parameters())  # noqa: E731
    before, begun = peak_memory(), time.perf_counter()
    model = load()
    returned = time.perf_counter() - begun
    total = sum(array.sum(dtype="float64") for array in arrays(model))
    ready = time.perf_counter() - begun
    assert total == total
    print(json.dumps([returned, ready, peak_memory() - before]))


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def report(results: dict[str, list], sizes: dict[str, int]) -> str:
    """A table of medians, with the least and the most in brackets."""
    lines = [
        f"{'':26}{'s to return':>19}{'s to read':>19}{'peak MB':>15}{'file MB':>9}{'ratio':>7}"
    ]
    for way, runs in results.items():
        returned, ready, memory = zip(*runs, strict=True)
        size = sizes[WAYS[way]]
        columns = [f"{spread(returned):>19}{spread(ready):>19}"]
        columns.append(f"{spread([m / 1e6 for m in memory], 0):>15}{size / 1e6:>9.0f}")
        columns.append(f"{statistics.median(memory) / size:>7.2f}")
        lines.append(f"{way:26}" + "".join(columns))
    return "\n".join(lines)


def spread(values, digits: int = 2) -> str:
    least, most = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure[0], Path(options.measure[1]))
    torch = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    ways = [way for way in WAYS if torch or not way.startswith("transformers")]
    results: dict[str, list] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), options.layers)
        ways = [way for way in ways if (Path(place) / WAYS[way]).is_dir()]
        for round in range(options.rounds):
            for way in ways:
                command = [sys.executable, "-m", "benchmarks.load", "--measure", way]
                done = subprocess.run(
                    [*command, str(Path(place) / WAYS[way])],
                    capture_output=True, text=True, check=True,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )  # fmt: skip
                results[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {round + 1} of {options.rounds}", file=sys.stderr)
        sizes = {path.name: size_of(path) for path in Path(place).iterdir()}
    print(report({way: runs for way, runs in results.items() if runs}, sizes))


if __name__ == "__main__":
    main()
