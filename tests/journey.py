"""README's way through the library, as somebody goes who has only the wheel and an empty directory.

    python tests/journey.py --transformers .venv-parity/bin/python

A PyTorch checkpoint made by transformers is loaded, asked, converted, fine-tuned, killed with
SIGKILL in the middle, resumed, exported, and loaded in transformers. The resumed run has to end
with the figures and the parameters of one left alone, and transformers has to answer as jbert does.

Where the system allows it, jbert runs with an empty directory mounted over the checkout, and after
pip without a network. transformers has an environment of its own, given by its interpreter.
"""

import argparse
import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
GOOD, BAD = ("calm", "warm", "fine", "kind"), ("cold", "grim", "rude", "dull")
THINGS = ("sea", "wind", "boat", "lamp", "bread", "letter", "island", "harbour")
WORDS = ("the", "was", "not", "and", "in", "what", "a", "of", ".", ",", "?")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *GOOD, *BAD, *THINGS)
MASKED = ["the sea was [MASK] .", "what a [MASK] , not in the harbour ?"]
REVIEWS = [
    "the sea was not cold and the bread was fine .",
    "a dull letter .",
    "what a kind island .",
]
STEPS, CHECKPOINT, KILLED_AFTER = 600, 40, 200

PUBLISH = """
import json, os, sys, torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

torch.manual_seed(0)
masked, words = json.loads(sys.argv[1]), sys.argv[2]
config = BertConfig(vocab_size=int(words), hidden_size=64, num_hidden_layers=2,
                    num_attention_heads=4, intermediate_size=128, max_position_embeddings=64)
model = BertForMaskedLM(config).eval()
model.save_pretrained("published")
os.remove("published/model.safetensors")
torch.save(model.state_dict(), "published/pytorch_model.bin")
tokens = AutoTokenizer.from_pretrained("published")(masked, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**tokens).logits
ids = tokens["input_ids"].tolist()
json.dump({"ids": ids, "logits": logits.tolist()}, open("published.json", "w"))
"""

LOAD = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np
import jbert

assert Path(jbert.__file__).is_relative_to(sys.prefix), jbert.__file__
assert not any(map(importlib.util.find_spec, ("torch", "tensorflow", "transformers")))
theirs = json.load(open("published.json"))
for source in ("published", "my-model"):
    bert = jbert.load(source, task="masked_lm")
    inputs = bert.tokenizer(json.loads(sys.argv[1]))
    assert inputs["input_ids"].tolist() == theirs["ids"], inputs["input_ids"]
    out = bert(**inputs)
    np.testing.assert_allclose(out.logits, theirs["logits"], atol=1e-4)
    logits = bert.module.apply({"params": bert.params}, **inputs).logits
    np.testing.assert_allclose(out.logits, logits, atol=1e-4)
"""

MY_RUN = f"""
from jbert.training.config import CheckpointConfig, EvaluationConfig, OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    model="published", steps={STEPS}, batch_size=16, processing={{"max_length": 24}},
    optimizer=OptimizerConfig(learning_rate=3e-4),
    evaluation=EvaluationConfig(steps=100), checkpoints=CheckpointConfig(steps={CHECKPOINT}),
)
"""

COMPARE = """
import jax, numpy as np
import jbert

alone, killed = (jbert.load(f"runs/{name}").params for name in ("alone", "killed"))
assert all(jax.tree.leaves(jax.tree.map(np.array_equal, alone, killed))), "other parameters"
"""

LOAD_EXPORT = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, report = AutoModelForSequenceClassification.from_pretrained(
    "for-transformers", output_loading_info=True
)
assert not any(report.values()), report
texts = json.loads(sys.argv[1])
tokens = AutoTokenizer.from_pretrained("for-transformers")(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    scores = model(**tokens).logits.softmax(-1)
answers = [{"label": model.config.id2label[int(row.argmax())], "score": float(row.max())}
           for row in scores]
print(json.dumps(answers))
"""


class Journey:
    """An environment of its own in `place`, and what is run there."""

    def __init__(self, place: Path, transformers: str):
        self.place, self.transformers = place, transformers
        self.bin = place / "venv" / "bin"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self.env = kept | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.alone = can_be_alone()

    def run(self, *command: str, network: bool = False) -> str:
        """Its standard output; an error ends the journey with everything it said."""
        process = self.start(*command, network=network)
        out, err = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}\n{out}{err}")
        return out

    def start(self, *command: str, network: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._apart(network), *command], cwd=self.place, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _apart(self, network: bool) -> list[str]:
        if not self.alone:
            return []
        cover = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
        return ["unshare", "--mount", *([] if network else ["--net"]), "sh", "-c", cover,
                str(CHECKOUT)]  # fmt: skip

    def ask_transformers(self, program: str, *arguments: str) -> str:
        finished = subprocess.run(
            [self.transformers, "-c", program, *arguments], cwd=self.place, env=self.env,
            text=True, capture_output=True, timeout=600,
        )  # fmt: skip
        if finished.returncode:
            raise SystemExit(f"transformers:\n{finished.stdout}{finished.stderr}")
        return finished.stdout


def can_be_alone() -> bool:
    command = ["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


# -- the way ---------------------------------------------------------------------------------


def steps(journey: Journey, wheel: Path) -> Iterator[str]:
    """What was done, after each step."""
    place = journey.place
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    journey.run("pip", "install", "-q", str(wheel), network=True)
    yield f"installed {journey.run('jbert', '--version').strip()} from {wheel.name}"

    write_files(place)
    journey.ask_transformers(PUBLISH, json.dumps(MASKED), str(len(VOCABULARY)))
    yield "transformers has written a checkpoint"

    journey.run("jbert", "convert", "published", "my-model")
    journey.run("jbert", "info", "my-model")
    journey.run("python", "-c", LOAD, json.dumps(MASKED))
    predict(journey, "fill-mask", "published", MASKED)
    yield "loaded it without torch, converted it to Orbax; the logits are those of transformers"

    train = ["jbert", "finetune", "my_run.py", "--data.train_file", "train.csv",
             "--data.validation_file", "dev.csv", "--output_dir"]  # fmt: skip
    journey.run(*train, "runs/alone")
    yield f"fine-tuned for {STEPS} steps"

    step = kill(journey, *train, "runs/killed")
    yield f"killed another run with SIGKILL after step {step}"

    journey.run(*train, "runs/killed", "--resume")
    compare(journey)
    yield "resumed it: the figures and the parameters are those of the run left alone"

    answers = predict(journey, "text-classification", "runs/killed/model", REVIEWS)
    journey.run("jbert", "convert", "runs/killed/model", "for-transformers", "--to", "safetensors")
    theirs = json.loads(journey.ask_transformers(LOAD_EXPORT, json.dumps(REVIEWS)))
    for mine, other in zip(answers, theirs, strict=True):
        same = mine["label"] == other["label"] and abs(mine["score"] - other["score"]) < 1e-5
        expect(same, f"jbert answers {mine}, transformers {other}")
    yield f"transformers answers as jbert does: {[answer['label'] for answer in theirs]}"


def write_files(place: Path) -> None:
    (place / "published").mkdir()
    (place / "published" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (place / "my_run.py").write_text(MY_RUN)
    draw = random.Random(0)
    for name, count in (("train.csv", 2000), ("dev.csv", 200)):
        with open(place / name, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("text", "label"))
            rows.writerows(review(draw) for _ in range(count))


def review(draw: random.Random) -> tuple[str, str]:
    """What is said last counts, and "not" turns it round."""
    parts, good = [], True
    for _ in range(draw.randint(1, 2)):
        good, denied = draw.random() < 0.5, draw.random() < 0.3
        word = draw.choice(GOOD if good is not denied else BAD)
        parts.append(f"the {draw.choice(THINGS)} was {'not ' if denied else ''}{word}")
    return " and ".join(parts) + " .", "good" if good else "bad"


def predict(journey: Journey, task: str, model: str, texts: list[str]) -> list[dict]:
    lines = journey.run("jbert", "predict", task, "--model", model, *texts).splitlines()
    expect(len(lines) == len(texts), f"{len(lines)} answers to {len(texts)} texts")
    found = [json.loads(line)["result"] for line in lines]
    return [answer[0] if isinstance(answer, list) else answer for answer in found]


def kill(journey: Journey, *command: str) -> int:
    """Start a run, and kill it after some checkpoints; the last step that it logged."""
    directory, end = journey.place / command[-1], time.monotonic() + 300
    process = journey.start(*command)
    while process.poll() is None and time.monotonic() < end:
        if last_step(directory) >= KILLED_AFTER:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    _, said = process.communicate()
    expect(process.returncode == -signal.SIGKILL, f"ended by itself before it was killed:\n{said}")
    expect(not (directory / "model").exists(), "the killed run has a finished model")
    return last_step(directory)


def last_step(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    # The last line may be on its way.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def compare(journey: Journey) -> None:
    """All figures that are no measurement of time, and all parameters, to the last bit."""
    alone, killed = (journey.place / "runs" / name for name in ("alone", "killed"))
    for name in ("figures.json", "predictions.jsonl"):
        expect_same(name, *((run / name).read_text().splitlines() for run in (alone, killed)))
    expect_same("metrics.jsonl", figures(alone), figures(killed))
    journey.run("python", "-c", COMPARE)


def expect_same(name: str, alone: list, killed: list) -> None:
    pairs = itertools.zip_longest(alone, killed)
    different = next((pair for pair in pairs if pair[0] != pair[1]), None)
    expect(different is None, f"{name} of a run left alone and of a resumed one: {different}")


def figures(directory: Path) -> list[dict]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    clocks = ("time", "elapsed_seconds", "examples_per_second", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise SystemExit(otherwise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transformers", required=True, metavar="PYTHON")
    parser.add_argument("--wheel", type=Path, help="by default built from the checkout")
    options = parser.parse_args()
    transformers = os.path.abspath(options.transformers)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="journey.") as temporary:
        place = Path(temporary).resolve() / "empty"
        place.mkdir()
        wheel = options.wheel or build_wheel(Path(temporary))
        journey = Journey(place, transformers)
        if not journey.alone:
            print("without the right to mount: jbert could see the checkout and the network")
        for done in steps(journey, wheel.resolve()):
            print(f"{time.monotonic() - start:6.0f} s  {done}", flush=True)


def build_wheel(place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place)]
    subprocess.run([*command, str(CHECKOUT)], check=True)
    (wheel,) = place.glob("jbert-*.whl")
    return wheel


if __name__ == "__main__":
    main()
