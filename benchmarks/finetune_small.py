"""Small models from scratch on real data sets, beside simple baselines and PyTorch transformers.

    python benchmarks/finetune_small.py DATA --out /tmp/small             # all five, three seeds
    python benchmarks/finetune_small.py DATA --out /tmp/small --only qnli wnut17
    python benchmarks/finetune_small.py DATA --out /tmp/torch --torch     # the same run twice
    python benchmarks/finetune_small.py DATA --out /tmp/small --tokenise  # beside the steps' speed

DATA holds these published files:

    classification/qnli-dev.tsv      GLUE's QNLI, its dev.tsv
    ner/wnut17train.conll, ner/emerging.dev.conll, ner/emerging.test.annotated     WNUT17
    choice/codah_fold0_{train,dev,test}.tsv                                        CODAH
    squad/dev-half-v2.0.json         questions of SQuAD 2.0
    text/pg1342-pride-and-prejudice.txt, text/pg1661-sherlock-holmes.txt
    vocab/bert-base-uncased-vocab.txt

Every run is what `jbert finetune` does. What is printed are the lines of the table in
docs/finetuning_results.md; times are those of the processor, over all of its cores, compilation
included. Baselines need scikit-learn; --torch needs torch and transformers, and compares the losses
of all steps and the scores of one run with those of PyTorch from the same weights, on the same
batches, by the same schedule, without dropout, for half as many epochs.
"""

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jbert.data.splits import TRAIN, VALIDATION, DataConfig, read_splits
from jbert.data.table import Table
from jbert.training.config import CheckpointConfig, OptimizerConfig
from jbert.training.finetune import FinetuneConfig, Finetuning, finetune
from jbert.training.start import StartConfig

LAYERS = {"num_hidden_layers": 4}  # of bert-tiny, which is 128 wide with two heads
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def configurations(data: Path, out: Path) -> dict[str, FinetuneConfig]:
    """One for each data set; the first split that is not trained on is what scores are of."""
    whole = {
        "model": "bert-tiny",
        "start": StartConfig(
            scratch=True,
            tokenizer=str(data / "vocab/bert-base-uncased-vocab.txt"),
            overrides=LAYERS,
        ),
        "optimizer": OptimizerConfig(learning_rate=5e-4),
        "checkpoints": CheckpointConfig(keep=1),
        "overwrite": True,
        "seeds": (0, 1, 2),
    }
    novels = out / "novels.txt"
    names = ("pg1342-pride-and-prejudice", "pg1661-sherlock-holmes")
    paragraphs = "\n\n".join((data / f"text/{name}.txt").read_text("utf-8") for name in names)
    novels.write_text(
        "\n".join(" ".join(part.split()) for part in paragraphs.split("\n\n")), "utf-8"
    )

    def make(name: str, task: Any, files: DataConfig, **fields: Any) -> FinetuneConfig:
        return FinetuneConfig(task=task, data=files, output_dir=str(out / name), **whole | fields)

    return {
        "qnli": make(
            "qnli", "sequence_classification",
            DataConfig(train_file=str(data / "classification/qnli-dev.tsv"), validation_share=0.2),
            processing={"text": "question", "pair": "sentence", "max_length": 48, "buckets": (48,)},
            epochs=2.0,
        ),
        "wnut17": make(
            "wnut17", "token_classification",
            DataConfig(
                train_file=str(data / "ner/wnut17train.conll"),
                validation_file=str(data / "ner/emerging.dev.conll"),
                test_file=str(data / "ner/emerging.test.annotated"),
                format="conll",
            ),
            processing={"max_length": 48, "buckets": (48,)}, epochs=5.0, batch_size=8,
        ),
        "codah": make(
            "codah", "multiple_choice",
            DataConfig(
                train_file=str(data / "choice/codah_fold0_train.tsv"),
                validation_file=str(data / "choice/codah_fold0_dev.tsv"),
                test_file=str(data / "choice/codah_fold0_test.tsv"),
                format="codah",
            ),
            processing={"max_length": 32, "buckets": (32,)}, epochs=2.0,
        ),
        "squad": make(
            "squad", "question_answering",
            DataConfig(
                train_file=str(data / "squad/dev-half-v2.0.json"), validation_share=0.2, rows=3000
            ),
            processing={
                "max_length": 160, "buckets": (160,), "max_question_length": 32,
                "null_threshold": 0.0,
            },
            epochs=1.0,
        ),
        "novels": make(
            "novels", "masked_lm", DataConfig(train_file=str(novels), validation_share=0.1),
            processing={"max_length": 64, "buckets": (64,)}, epochs=3.0,
            start=StartConfig(scratch=True, vocab_size=4000, overrides=LAYERS),
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
    }  # fmt: skip


# -- baselines: figures by the split's name ---------------------------------------------------


def baselines(name: str, config: FinetuneConfig) -> dict[str, dict[str, float]]:
    tables = read_splits(config.data)
    train, held_out = tables[TRAIN], tables[VALIDATION]
    return {"qnli": _qnli, "wnut17": _wnut, "codah": _codah, "squad": _squad, "novels": _novels}[
        name
    ](train, held_out, config)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _tfidf(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, **options)


def _share(pairs: Any) -> float:
    return float(np.mean([one == other for one, other in pairs]))


def _qnli(train: Table, held_out: Table, _: FinetuneConfig) -> dict[str, dict[str, float]]:
    def texts(table: Table) -> list[str]:
        columns = table.columns["question"], table.columns["sentence"]
        return [f"{question} {sentence}" for question, sentence in zip(*columns, strict=True)]

    words = _tfidf(ngram_range=(1, 2), min_df=2)
    model = _logistic().fit(words.fit_transform(texts(train)), train.columns["label"])
    right = held_out.columns["label"]
    found = model.predict(words.transform(texts(held_out)))
    most = Counter(train.columns["label"]).most_common(1)[0][0]
    return {
        "majority": {"accuracy": _share((most, one) for one in right)},
        "tf-idf": {"accuracy": _share(zip(found, right, strict=True))},
    }


def _wnut(train: Table, held_out: Table, _: FinetuneConfig) -> dict[str, dict[str, float]]:
    """A word's own letters decide its tag."""
    from jbert.metrics import entity_metrics

    letters = _tfidf(analyzer="char_wb", ngram_range=(2, 4), min_df=3, lowercase=False)
    words = [word for sentence in train.columns["tokens"] for word in sentence]
    tags = [tag for sentence in train.columns["tags"] for tag in sentence]
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0)
    model.fit(letters.fit_transform(words), tags)
    found = [model.predict(letters.transform(one)).tolist() for one in held_out.columns["tokens"]]
    nothing = [["O"] * len(one) for one in held_out.columns["tokens"]]
    right = held_out.columns["tags"]
    return {
        "majority": {"f1": entity_metrics(nothing, right)["f1"]},
        "tf-idf": {"f1": entity_metrics(found, right)["f1"]},
    }


def _codah(train: Table, held_out: Table, _: FinetuneConfig) -> dict[str, dict[str, float]]:
    def texts(table: Table) -> list[str]:
        rows = zip(table.columns["context"], table.columns["choices"], strict=True)
        return [f"{context} {choice}" for context, choices in rows for choice in choices]

    right = np.array(train.columns["label"])
    words = _tfidf(ngram_range=(1, 2), min_df=2)
    chosen = (np.arange(4) == right[:, None]).ravel()
    model = _logistic().fit(words.fit_transform(texts(train)), chosen)
    scores = model.decision_function(words.transform(texts(held_out))).reshape(-1, 4)
    labels = held_out.columns["label"]
    most = Counter(right.tolist()).most_common(1)[0][0]
    return {
        "majority": {"accuracy": _share((most, one) for one in labels)},
        "tf-idf": {"accuracy": _share(zip(scores.argmax(axis=1), labels, strict=True))},
    }


def _squad(train: Table, held_out: Table, _: FinetuneConfig) -> dict[str, dict[str, float]]:
    from jbert.metrics import squad_v2

    ids, answers = held_out.columns["id"], held_out.columns["answers"]
    right = {one: list(given["text"]) for one, given in zip(ids, answers, strict=True)}
    found = squad_v2(dict.fromkeys(ids, ""), right)
    return {"majority": {"exact": found["exact"], "f1": found["f1"]}}


def _novels(train: Table, held_out: Table, config: FinetuneConfig) -> dict[str, dict[str, float]]:
    """Every hidden token is guessed by how often each occurs."""
    from jbert.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(f"{config.output_dir}/seed-0/tokenizer")

    def counts(table: Table) -> np.ndarray:
        rows = tokenizer.backend.encode_batch(table.columns["text"], add_special_tokens=False)
        ids = np.concatenate([row.ids for row in rows]).astype(int)
        return np.bincount(ids, minlength=len(tokenizer)).astype(float)

    known, there = counts(train) + 1, counts(held_out)
    loss = -(there * np.log(known / known.sum())).sum() / there.sum()
    right = there[known.argmax()] / there.sum()
    return {"majority": {"perplexity": float(np.exp(loss)), "accuracy": float(right)}}


# -- runs ---------------------------------------------------------------------------------------


def measure(name: str, config: FinetuneConfig) -> dict[str, Any]:
    started, worked = time.perf_counter(), time.process_time()
    finetune(config)
    seconds = time.perf_counter() - started, time.process_time() - worked
    found = json.loads((Path(config.output_dir) / "seeds.json").read_text())
    return {
        "mean": found["mean"],
        "spread": found["standard_deviation"],
        "wall_seconds_a_seed": seconds[0] / len(config.seeds),
        "cpu_seconds_a_seed": seconds[1] / len(config.seeds),
        "baselines": baselines(name, config),
    }


def line(name: str, found: dict[str, Any]) -> str:
    split = next(iter(found["mean"]))
    mean, spread = found["mean"][split], found["spread"][split]
    names = [one for one in ("accuracy", "exact", "f1", "perplexity") if one in mean]
    if name == "wnut17":
        names = ["f1"]
    cells = [f"{one} {mean[one]:.4g} ± {spread[one]:.2g}" for one in names]
    others = [
        ", ".join(f"{one} {found['baselines'][kind][one]:.4g}" for one in names
                  if one in found["baselines"][kind]) if kind in found["baselines"] else "–"
        for kind in ("majority", "tf-idf")
    ]  # fmt: skip
    seconds = f"{found['cpu_seconds_a_seed']:.0f} s"
    return f"| {name} | {', '.join(cells)} | {others[0]} | {others[1]} | {seconds} |"


def tokenising(name: str, config: FinetuneConfig) -> dict[str, float]:
    """Rows a second: of the processor, without its cache, and of the training steps of a run that
    was measured before."""
    from jbert.training.finetune import make_recipe
    from jbert.training.start import find_start

    train = read_splits(config.data)[TRAIN]
    recipe, run = make_recipe(config, train), Path(config.output_dir) / "seed-0"
    tokenizer = find_start(config, config.start, config.task, [], run / "tokenizer").tokenizer
    times = []
    for _ in range(3):
        started = time.perf_counter()
        features = recipe.processor.process(train, tokenizer, cache=False)
        times.append(time.perf_counter() - started)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    speeds = [line["examples_per_second"] for line in lines if line["split"] == TRAIN]
    return {"tokenised": len(features) / min(times), "trained": max(speeds)}


# -- the same run in PyTorch ------------------------------------------------------------------


def against_torch(config: FinetuneConfig) -> dict[str, Any]:
    overrides = {**config.start.overrides, **NO_DROPOUT}
    start = dataclasses.replace(config.start, overrides=overrides)
    logging = dataclasses.replace(config.logging, steps=1)
    config = dataclasses.replace(
        config, start=start, seeds=(), logging=logging, output_dir=f"{config.output_dir}-both",
        epochs=config.epochs / 2, checkpoints=CheckpointConfig(keep=1, best=False),
    )  # fmt: skip
    from jbert.training.directory import METRICS, RunDirectory

    with RunDirectory(config).prepare(config):
        run = Finetuning(config)
        torch_losses, torch_figures = _torch_run(run)
        figures = run.run()[VALIDATION]
    lines = map(json.loads, (run.directory / METRICS).read_text().splitlines())
    losses = [one["loss"] for one in lines if one["split"] == TRAIN]
    apart = np.abs(np.array(losses) - np.array(torch_losses))
    return {
        "steps": len(losses),
        "loss_apart_in_first_50_steps": float(apart[:50].max()),
        "loss_apart_in_all": float(apart.max()),
        "mean_loss_of_last_quarter": {
            "jbert": float(np.mean(losses[-len(losses) // 4 :])),
            "torch": float(np.mean(torch_losses[-len(losses) // 4 :])),
        },
        "jbert": figures,
        "torch": torch_figures,
    }


def _torch_run(run: Finetuning) -> tuple[list[float], dict[str, float]]:
    import torch
    import transformers

    import jbert
    from jbert.data.batches import WEIGHTS, EvaluationOrder
    from jbert.training.evaluation import _collect

    source = run.directory / "torch"
    jbert.export(run.bert, source)
    kind = {
        "sequence_classification": transformers.BertForSequenceClassification,
        "token_classification": transformers.BertForTokenClassification,
    }[run.config.task]
    model = kind.from_pretrained(source)
    trainer, wanted = run.trainer, run.config.optimizer
    plain = [p for n, p in model.named_parameters() if p.ndim > 1]
    norms = [p for n, p in model.named_parameters() if p.ndim == 1]
    groups = [{"params": plain, "weight_decay": wanted.weight_decay},
              {"params": norms, "weight_decay": 0.0}]  # fmt: skip
    betas = wanted.beta1, wanted.beta2
    optimizer = torch.optim.AdamW(groups, wanted.learning_rate, betas, wanted.epsilon)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, trainer.optimizer.warmup_steps(), trainer.total
    )

    def tensors(batch: Any, train: Any) -> dict[str, Any]:
        arrays = batch.read(train, np.arange(batch.count))
        return {n: torch.from_numpy(x.astype(np.int64)) for n, x in arrays.items() if n != WEIGHTS}

    model.train()
    losses = []
    for number in range(trainer.total):
        loss = model(**tensors(trainer.order.batch(number), trainer.order.source)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), wanted.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    features, kept, total = run.features[VALIDATION], {}, [0.0, 0]
    with torch.inference_mode():
        for batch in EvaluationOrder(features, 2 * run.config.batch_size):
            inputs = tensors(batch, features)
            out = model(**inputs)
            count = int((inputs["labels"] != -100).sum())
            total = [total[0] + out.loss.item() * count, total[1] + count]
            _collect(kept, "logits", out.logits.numpy(), batch, len(features))
    loss = total[0] / total[1]
    return losses, {"loss": loss, **run._score(VALIDATION)(kept, loss)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--tokenise", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = configurations(arguments.data.expanduser(), arguments.out)
    names = arguments.only or (["qnli", "wnut17"] if arguments.torch else list(known))
    run: Callable[[str], dict[str, Any]] = lambda name: measure(name, known[name])  # noqa: E731
    if arguments.torch:
        run = lambda name: against_torch(known[name])  # noqa: E731
    for name in names:
        if arguments.tokenise:
            print(name, tokenising(name, known[name]), flush=True)
            continue
        found = run(name)
        kind = "torch" if arguments.torch else "found"
        (arguments.out / f"{name}.{kind}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2) if arguments.torch else line(name, found), flush=True)


if __name__ == "__main__":
    main()
