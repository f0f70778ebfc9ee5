"""Fine-tuning as a whole: where models start, how runs end, and several seeds."""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import disk
import finetune_runs as runs
import numpy as np
import pytest
from finetune_runs import again, config, lines, logged, one_device  # noqa: F401

import jbert
from jbert.data.splits import DataConfig
from jbert.metrics import entity_metrics, squad_v1, squad_v2
from jbert.restore import HeadWarning
from jbert.training.config import EvaluationConfig, RunError
from jbert.training.finetune import FinetuneConfig, finetune
from jbert.training.start import StartConfig

TASK = "sequence_classification"
LABELS = {0: "bad", 1: "good"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A classifier that has learned its task, and the figures of its run."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jbert.training.finetune.mesh_of", lambda run: _one_device())
        run = config(place, steps=30, data=runs.write_splits(place, TASK, train=80, validation=20))
        return run, finetune(run)


def _one_device():
    import jax

    from jbert.sharding import EVERYTHING, make_mesh

    return make_mesh(devices=jax.devices()[:1]), EVERYTHING


def model_of(run: FinetuneConfig) -> Path:
    return Path(run.output_dir) / "model"


# -- what is learned ------------------------------------------------------------------------------


def test_a_model_learns_and_answers_as_it_did_in_its_run(finished):
    run, figures = finished
    assert figures["validation"]["accuracy"] == 1.0
    pipe = jbert.pipeline("text-classification", jbert.load(model_of(run)))
    answers = pipe(["the bread was warm and fine .", "the sea was grim and cold ."])
    assert [answer["label"] for answer in answers] == ["good", "bad"]


def test_a_checkpoint_of_a_run_has_its_tokenizer_before_there_is_a_model(finished, tmp_path):
    run, _ = finished
    shutil.copytree(run.output_dir, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    bert, model = jbert.load(tmp_path / "run"), jbert.load(model_of(run))
    assert "checkpoints" in str(bert.source)
    assert bert.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    texts = bert.tokenizer(["the sea was grim"])
    np.testing.assert_array_equal(bert(**texts).logits, model(**texts).logits)


def test_a_number_is_predicted(tmp_path):
    random = np.random.default_rng(0)
    rows = [{"text": runs.review(random)[0], "label": float(i % 4) / 2} for i in range(24)]
    data = DataConfig(train_file=runs.write_jsonl(tmp_path / "train.jsonl", rows))
    run = config(tmp_path, data=data, processing={"problem_type": "regression"})
    figures = finetune(run)["validation"]
    assert set(figures) == {"loss", "pearson", "spearmanr", "mse"}
    assert figures["mse"] == pytest.approx(figures["loss"])
    model = jbert.load(model_of(run))
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert set(lines(Path(run.output_dir) / "predictions.jsonl")[0]) == {"where", "score"}


def test_several_labels_are_predicted(tmp_path):
    names = [[], ["cold"], ["warm"], ["cold", "grim"]]
    rows = [{"text": f"the sea was {' and '.join(n)} .", "label": n} for n in names] * 6
    data = DataConfig(train_file=runs.write_jsonl(tmp_path / "train.jsonl", rows))
    kind = "multi_label_classification"
    run = config(tmp_path, data=data, processing={"problem_type": kind}, steps=20)
    assert set(finetune(run)["validation"]) == {"loss", "f1", "accuracy"}
    model = jbert.load(model_of(run))
    assert model.config.problem_type == kind
    assert list(model.config.id2label.values()) == ["cold", "grim", "warm"]
    line = lines(Path(run.output_dir) / "predictions.jsonl")[0]
    assert set(line) == {"where", "labels", "scores"} and len(line["scores"]) == 3


def test_figures_of_answers_are_those_of_the_published_scorers(tmp_path):
    """On the predictions file, for questions that have answers and for some that have none."""
    import squad_scorer

    for version in (1, 2):
        place = tmp_path / str(version)
        place.mkdir()
        run = config(place, "question_answering", processing={"null_threshold": 0.0})
        rows = runs.rows("question_answering", 20, 1)
        if version == 2:
            for row in rows[::3]:
                row["answers"] = {"text": [], "answer_start": []}
        runs.write_jsonl(place / "validation.jsonl", rows)
        figures = finetune(run)["validation"]
        found = {row["id"]: row for row in lines(Path(run.output_dir) / "predictions.jsonl")}
        texts = {name: row["answer"] for name, row in found.items()}
        right = {row["id"]: row["answers"]["text"] for row in rows}
        figures.pop("loss")
        if version == 1:
            assert figures == pytest.approx(squad_scorer.version_1(texts, right), abs=1e-9)
            assert figures == squad_v1(texts, right)
        else:
            scores = {name: row["no_answer_score"] for name, row in found.items()}
            expected = squad_scorer.version_2(texts, right, scores, float("inf"))
            assert figures == pytest.approx(expected, abs=1e-9)
            assert figures == squad_v2(texts, right, scores, float("inf"))


def test_figures_of_entities_are_seqevals(tmp_path):
    """On the predictions file, strictly, and as conlleval counts them."""
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.scheme import IOB2

    run = config(tmp_path, "token_classification", steps=3, scheme="iob2")
    figures = finetune(run)["validation"]
    found = [row["tags"] for row in lines(Path(run.output_dir) / "predictions.jsonl")]
    right = [row["tags"] for row in runs.rows("token_classification", 10, 1)]
    scorers = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    for name, scorer in scorers.items():
        strict = scorer(right, found, zero_division=0, mode="strict", scheme=IOB2)
        assert figures[name] == strict
        assert entity_metrics(found, right)[name] == scorer(right, found, zero_division=0)
    pairs = [pair for row in zip(found, right, strict=True) for pair in zip(*row, strict=True)]
    assert figures["accuracy"] == np.mean([one == other for one, other in pairs])


# -- where a model starts -------------------------------------------------------------------------


def test_a_saved_model_goes_on_and_keeps_its_order_of_labels(finished, tmp_path):
    """Its names in another order than the data's: the head is right only in its own."""
    before, figures = finished
    model = jbert.load(model_of(before))
    params = {**model.params, "classifier": _turned(model.params["classifier"])}
    turned = dataclasses.replace(
        model, params=params, config=model.config.replace(id2label={0: "good", 1: "bad"})
    )
    jbert.save(turned, tmp_path / "turned")
    run = config(tmp_path, model=str(tmp_path / "turned"), data=before.data, steps=1)
    run = again(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=1e-9))
    assert finetune(run)["validation"]["accuracy"] == figures["validation"]["accuracy"] == 1.0
    assert jbert.load(model_of(run)).config.id2label == {0: "good", 1: "bad"}


def _turned(head: Any) -> Any:
    return {name: value[..., ::-1] for name, value in head.items()}


def test_a_head_of_other_labels_starts_anew(finished, tmp_path, caplog):
    before, _ = finished
    old = jbert.load(model_of(before))
    rows = [{**row, "label": {"good": "yes", "bad": "no"}[row["label"]]}
            for row in runs.rows(TASK, 16)]  # fmt: skip
    data = DataConfig(train_file=runs.write_jsonl(tmp_path / "train.jsonl", rows))
    run = config(tmp_path, model=str(model_of(before)), data=data, steps=1)
    run = again(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=1e-9))
    finetune(run)
    assert "has learned the labels bad, good, the data have no, yes" in caplog.text
    new = jbert.load(model_of(run))
    assert new.config.id2label == {0: "no", 1: "yes"}
    parts = [np.asarray(model.params["classifier"]["kernel"]) for model in (old, new)]
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    encoders = [np.asarray(m.params["encoder"]["pooler"]["dense"]["kernel"]) for m in (old, new)]
    np.testing.assert_allclose(*encoders, atol=1e-6)


def test_a_hugging_face_directory_gets_a_head_and_says_so(tmp_path):
    tokenizer = jbert.Tokenizer.from_vocab(runs.write_vocabulary(tmp_path))
    encoder = disk.bert("bert", None, tokenizer=tokenizer, vocab_size=len(tokenizer))
    jbert.export(encoder, tmp_path / "published")
    run = config(tmp_path, model=str(tmp_path / "published"), steps=1)
    with pytest.warns(HeadWarning, match="classifier/kernel"):
        finetune(run)
    assert jbert.load(model_of(run)).config.id2label == LABELS


def test_a_preset_with_overrides_and_a_tokenizer_of_its_own(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
    start = StartConfig(scratch=True, vocab_size=120, overrides=sizes)
    run = config(tmp_path, model="bert-tiny", start=start)
    finetune(run)
    model = jbert.load(model_of(run))
    assert {name: getattr(model.config, name) for name in sizes} == sizes
    assert 30 < len(model.tokenizer) == model.config.vocab_size <= 120
    assert model.tokenizer.model_max_length == 32
    assert model.tokenizer("the sea")["input_ids"].shape == (1, 4)


def test_distilbert_takes_no_token_types_from_any_tokenizer(tmp_path):
    run = config(tmp_path, arch="distilbert", processing={"pair": "text"}, steps=1)
    finetune(run)
    assert "token_type_ids" not in jbert.load(model_of(run)).tokenizer("the sea")


# -- splits ---------------------------------------------------------------------------------------


def test_a_test_split_without_labels_is_predicted_and_not_scored(tmp_path):
    data = runs.write_splits(tmp_path, TASK, train=16, validation=8, test=6)
    rows = [{"id": f"t{i}", "text": row["text"]} for i, row in enumerate(runs.rows(TASK, 6))]
    runs.write_jsonl(tmp_path / "test.jsonl", rows)
    run = config(tmp_path, data=data, steps=1)
    assert list(finetune(run)) == ["validation"]
    found = lines(Path(run.output_dir) / "predictions.jsonl")
    assert [line["id"] for line in found] == [f"t{i}" for i in range(6)]
    assert {line["label"] for line in found} <= {"bad", "good"}


def test_glue_is_scored_as_published_and_its_test_split_predicted(tmp_path):
    folder = tmp_path / "MRPC"
    folder.mkdir()
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    row = "{}\t1\t2\tthe sea was calm\tthe sea was {}\n"
    for file in ("train.tsv", "dev.tsv"):
        some = [row.format(i % 2, ("cold", "calm")[i % 2]) for i in range(16)]
        (folder / file).write_text(head + "".join(some))
    (folder / "test.tsv").write_text(head.replace("Quality", "index") + row.format(0, "calm"))
    data = DataConfig(dataset="glue/mrpc", data_dir=str(tmp_path))
    run = config(tmp_path, data=data)
    assert set(finetune(run)["validation"]) == {"loss", "accuracy", "f1", "average"}
    assert jbert.load(model_of(run)).config.id2label == {0: "not_equivalent", 1: "equivalent"}
    (line,) = lines(Path(run.output_dir) / "predictions.jsonl")
    assert line["id"] == 0 and line["label"] in ("equivalent", "not_equivalent")


def test_glue_scores_do_not_depend_on_the_order_of_a_models_labels(tmp_path):
    from jbert.data.table import Table
    from jbert.training.finetune import make_recipe

    columns = {"sentence1": ["a"] * 5, "sentence2": ["b"] * 5, "label": [1, 1, 0, 1, 0]}
    names = ("not_equivalent", "equivalent")
    table = Table(columns | {"idx": list(range(5))}, label_names={"label": names})
    run = FinetuneConfig(data=DataConfig(dataset="glue/mrpc"))
    recipe = make_recipe(run, table)
    logits = np.eye(2, dtype=np.float32)[[1, 0, 0, 1, 1]]
    tokenizer = jbert.Tokenizer.from_vocab(runs.write_vocabulary(tmp_path))
    figures = []
    for one, scores in ((recipe, logits), (recipe.in_order(names[::-1]), logits[:, ::-1])):
        features = one.processor.process(table, tokenizer, cache=False)
        figures.append(one.score(table, features, {"logits": scores}, 0.0))
    assert figures[0] == figures[1] and figures[0]["f1"] == pytest.approx(2 / 3)
    assert recipe.in_order(("other", "names")) is recipe


# -- how runs end ---------------------------------------------------------------------------------


def test_the_best_checkpoint_is_the_finished_model_and_patience_ends_a_run(tmp_path):
    """With a learning rate that ruins the model, the first evaluation stays the best."""
    optimizer = dataclasses.replace(config(tmp_path).optimizer, learning_rate=1.0)
    evaluation = EvaluationConfig(steps=1, patience=2, metric="loss")
    run = config(tmp_path, steps=20, evaluation=evaluation, optimizer=optimizer)
    figures = finetune(run)["validation"]
    losses = [line["loss"] for line in logged(run, "validation")]
    assert len(losses) < 20 and np.argmin(losses) == len(losses) - 3
    assert figures["loss"] == pytest.approx(min(losses))


def test_a_finished_run_gives_the_same_figures_again_without_training(finished, monkeypatch):
    run, figures = finished
    before = (Path(run.output_dir) / "metrics.jsonl").read_text()

    def fail(*_: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr("jbert.training.step.TrainStep.__call__", fail)
    assert finetune(again(run, resume=True)) == figures
    assert (Path(run.output_dir) / "metrics.jsonl").read_text() == before


def test_a_run_is_neither_overwritten_nor_mixed_up(finished, tmp_path):
    run, _ = finished
    with pytest.raises(RunError, match="holds this run already; --resume goes on"):
        finetune(run)
    with pytest.raises(RunError, match="cannot be resumed.*\n  batch_size: 8 there, 16 here"):
        finetune(again(run, resume=True, batch_size=16))
    shutil.copytree(run.output_dir, tmp_path / "copy")
    other = again(run, output_dir=str(tmp_path / "copy"), overwrite=True, steps=1, seed=5)
    finetune(other)
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["seed"] == 5
    assert not (tmp_path / "copy" / ".replaced").exists()
    assert [line["step"] for line in logged(other, "train")] == [1]


def test_several_seeds_give_mean_spread_and_the_best_model(tmp_path):
    run = config(tmp_path, seeds=(1, 2), steps=3)
    figures = finetune(run)["validation"]
    directory = Path(run.output_dir)
    found = json.loads((directory / "seeds.json").read_text())
    each = {seed: splits["validation"] for seed, splits in found["seeds"].items()}
    assert list(each) == ["1", "2"] and each["1"]["loss"] != each["2"]["loss"]
    for name, value in figures.items():
        values = [one[name] for one in each.values()]
        assert value == found["mean"]["validation"][name] == statistics.fmean(values)
        spread = found["standard_deviation"]["validation"][name]
        assert spread == statistics.stdev(values)
    best = max(each, key=lambda seed: each[seed]["accuracy"])
    models = [jbert.load(path) for path in (directory / "model", directory / f"seed-{best}/model")]
    disk.assert_same(models[0].params, models[1].params)
    assert (directory / "predictions.jsonl").read_bytes() == (
        directory / f"seed-{best}" / "predictions.jsonl"
    ).read_bytes()
    assert "±" in (directory / "report.html").read_text()
    # Again, with other seeds: nothing of the former ones is left, and a resumed one is the same.
    other = again(run, seeds=(4,), overwrite=True)
    figures = finetune(other)
    assert sorted(path.name for path in directory.glob("seed*")) == ["seed-4", "seeds.json"]
    assert not (directory / ".replaced").exists()
    assert finetune(again(other, overwrite=False, resume=True)) == figures


def test_seeds_of_splits_without_labels_have_a_model_all_the_same(tmp_path):
    data = runs.write_splits(tmp_path, TASK, train=16, validation=4)
    rows = [{"text": row["text"]} for row in runs.rows(TASK, 4)]
    runs.write_jsonl(tmp_path / "validation.jsonl", rows)
    run = config(tmp_path, data=data, seeds=(1,), steps=1)
    assert finetune(run) == {}
    assert jbert.load(model_of(run)).task == TASK
