"""Pretraining runs as a whole: what they leave, and that an interruption changes nothing."""

import signal
from pathlib import Path

import numpy as np
import pytest
from pretrain_runs import LENGTH, again, config, logged, one_device  # noqa: F401

import jbert
from jbert.training.config import EvaluationConfig, OptimizerConfig
from jbert.training.loop import Trainer
from jbert.training.pretrain import GeneratorConfig, Phase, pretrain
from jbert.training.start import StartConfig
from jbert.trees import flatten

PHASES = (Phase(length=16, steps=4), Phase(length=LENGTH, steps=4, batch_size=4))
DETECTION = {"loss", "perplexity", "accuracy", "precision", "recall", "replaced"}


def detecting(place: Path, **changes):
    """Replaced-token detection in two phases, packed, with a generator a quarter as wide."""
    return config(
        place, task="replaced_token_detection", steps=None, phases=PHASES,
        evaluation=EvaluationConfig(steps=4), generator=GeneratorConfig(width=0.25), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = detecting(tmp_path_factory.mktemp("finished"))
    return run, pretrain(run)


def models(run) -> dict[str, np.ndarray]:
    found = {}
    for name in ("model", "generator"):
        params = flatten(jbert.load(Path(run.output_dir) / name).params)
        found |= {f"{name}/{path}": np.asarray(leaf) for path, leaf in params.items()}
    return found


def test_a_run_leaves_both_models_its_figures_and_a_report(finished):
    run, figures = finished
    place = Path(run.output_dir)
    assert {path.name for path in place.iterdir() if not path.name.startswith(".")} == {
        "config.json", "metrics.jsonl", "checkpoints", "model", "generator", "tokenizer",
        "report.html", "figures.json",
    }  # fmt: skip
    assert jbert.load(place / "model").task == "replaced_token_detection"
    generator = jbert.load(place / "generator")
    assert generator.task == "masked_lm" and generator.config.hidden_size == 8
    assert jbert.pipeline("fill-mask", model=generator)("the [MASK] was")[0]["token_str"]
    # Of a run that has not ended: the model alone, without what was trained beside it.
    assert jbert.load(place / "checkpoints").task == "replaced_token_detection"
    # The longest first, and both lengths all along.
    assert figures.keys() == {"validation", "validation_16"}
    assert all(each.keys() == DETECTION for each in figures.values())
    lines = logged(run, timeless=False)
    assert [(line["step"], line["split"]) for line in lines if line["split"] != "train"] == [
        (4, "validation"), (4, "validation_16"), (8, "validation"), (8, "validation_16"),
    ]  # fmt: skip
    assert {k: v for k, v in lines[-2].items() if k in DETECTION} == figures["validation"]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 9))
    for line in train:
        both = line["generator_loss"] + line["discriminator_loss"]
        np.testing.assert_allclose(line["loss"], both)


def test_a_run_that_was_stopped_in_each_phase_is_the_run_that_was_not(
    finished, tmp_path, monkeypatch
):
    """Bit for bit, in the middle of an epoch and of its packing; one goes on beyond its phase."""
    expected, stops, go_on = finished[0], {2, 6}, Trainer._stop_if_told

    def stop_at_some(trainer, state):
        step = trainer.progress.step
        if step in stops:
            stops.remove(step)
            before, after = trainer.order.batch(step - 1), trainer.order.batch(step)
            assert before.epoch == after.epoch and before.length == after.length
            trainer.preemption._note(signal.SIGTERM, None)
        go_on(trainer, state)

    monkeypatch.setattr(Trainer, "_stop_if_told", stop_at_some)
    run = detecting(tmp_path)
    for resume in (False, True):
        with pytest.raises(SystemExit, match="143"):
            pretrain(again(run, resume=resume))
    assert not stops
    pretrain(again(run, resume=True))
    assert logged(run) == logged(expected)
    found, wanted = models(run), models(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].tobytes() == value.tobytes(), name


def test_a_masked_language_model_learns_and_goes_on_from_where_it_was(tmp_path):
    first = config(
        tmp_path, arch="distilbert", steps=15, evaluation=EvaluationConfig(steps=5),
        start=StartConfig(scratch=True, vocab_size=200),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
    )  # fmt: skip
    figures = pretrain(first)
    evaluated = [line["perplexity"] for line in logged(first) if line["split"] == "validation"]
    assert evaluated == sorted(evaluated, reverse=True) and len(evaluated) == 3
    assert evaluated[-1] == figures["validation"]["perplexity"] < 8
    bert = jbert.load(tmp_path / "run" / "model")
    assert bert.config.vocab_size == len(bert.tokenizer) <= 200
    # The same model and tokenizer again, in large batches.
    second = again(
        first, model=str(tmp_path / "run" / "model"), start=StartConfig(), steps=2, batch_size=64,
        accumulate=4, output_dir=str(tmp_path / "second"),
        optimizer=OptimizerConfig(name="lamb", learning_rate=1e-3),
    )  # fmt: skip
    found = pretrain(second)
    assert found["validation"]["perplexity"] < 1.1 * figures["validation"]["perplexity"]
    assert jbert.load(tmp_path / "second" / "model").task == "masked_lm"


def test_figures_do_not_depend_on_what_is_projected(tmp_path):
    """With and without the gathered positions and the chunked loss, the steps are the same."""
    ways = {"one": True, "other": False}
    runs = [
        config(tmp_path / name, task="pretraining", steps=2, gather=value, chunked_loss=value)
        for name, value in ways.items()
    ]
    for run in runs:
        pretrain(run)
    one, other = (logged(run) for run in runs)
    assert len(one) == len(other) and {"mlm_loss", "nsp_loss"} <= one[0].keys()
    assert {"loss", "perplexity", "mlm_loss", "nsp_accuracy"} <= one[-1].keys()
    for line, same in zip(one, other, strict=True):
        assert line.keys() == same.keys()
        for name, value in line.items():
            if not isinstance(value, str):
                np.testing.assert_allclose(same[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
