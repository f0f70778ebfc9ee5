"""What all pipelines share: buckets, order, streaming, batches, meshes, errors."""

import dataclasses
import functools
import logging

import jax
import numpy as np
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec
from pipeline_models import CONTEXT, close, model, pipe, ragged, tokenizer

import jbert
from jbert.pipelines import PIPELINES, PipelineError, compile_cache
from jbert.pipelines.buckets import make_buckets

# For each pipeline its model's task and inputs of which no two are alike.
INPUTS = {
    "fill-mask": ("masked_lm", [f"{text} [MASK] a" for text in ragged(9)]),
    "text-classification": ("sequence_classification", [*ragged(9), ("a b", "c")]),
    "token-classification": ("token_classification", ragged(9)),
    "question-answering": (
        "question_answering",
        [{"question": q, "context": CONTEXT[:n]} for q, n in zip(ragged(6, 3), range(20, 128, 18),
                                                                 strict=True)],
    ),
    "multiple-choice": (
        "multiple_choice", [{"question": q, "choices": ragged(3, 5, i)} for i, q in
                            enumerate(ragged(5, 4))],
    ),
    "next-sentence": ("next_sentence", list(zip(ragged(6, 5), ragged(6, 5, 1), strict=True))),
    "feature-extraction": (None, ragged(9)),
    "sentence-embedding": (None, ragged(9)),
    "text-generation": ("causal_lm", ragged(5, 5)),
}  # fmt: skip
OPTIONS = {"text-generation": {"max_new_tokens": 4}, "fill-mask": {"top_k": 2}}


@functools.cache
def made(name: str):
    """Shared by tests, which then share what is compiled too."""
    return fresh(name)


def fresh(name: str, **options):
    return pipe(name, model("bert", INPUTS[name][0]), **OPTIONS.get(name, {}), **options)


# -- buckets ------------------------------------------------------------------------------


def test_every_row_is_planned_once_into_a_bucket_that_holds_it():
    buckets = make_buckets(128, platform="cpu")
    lengths = np.random.default_rng(0).integers(1, 129, 777)
    batches = buckets.plan(lengths)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows) == list(range(777))
    for batch in batches:
        assert len(batch.rows) <= batch.height
        assert lengths[batch.rows].max() <= batch.length
        assert (batch.height, batch.length) in buckets.shapes()
    # Only the last batch may be short of rows, and by less than half.
    assert all(len(batch.rows) == batch.height for batch in batches[:-1])
    assert 2 * len(batches[-1].rows) > batches[-1].height
    work = sum(batch.height * batch.length for batch in batches)
    assert work < 1.25 * lengths.sum()


def test_on_a_cpu_a_hundred_texts_are_not_padded_to_the_longest_ones():
    """Batches are small enough for that, and so are the steps between lengths: batches of 2048
    tokens would be twice the work, and two thirds of the lengths 1.44 to 1.53 times."""
    buckets = make_buckets(128, platform="cpu")
    for seed in range(5):
        lengths = np.random.default_rng(seed).gamma(4, 25 / 4, 128).astype(int).clip(2, 128)
        work = sum(batch.height * batch.length for batch in buckets.plan(lengths))
        assert work < 1.4 * lengths.sum()


def test_a_single_row_runs_in_the_smallest_batch():
    (batch,) = make_buckets(512, platform="cpu").plan(np.array([9]))
    assert (batch.height, batch.length) == (1, 16)


def test_buckets_are_capped_at_the_model_and_split_over_devices():
    buckets = make_buckets(40, ways=4, batch_size=6, lengths=(16, 64, 512))
    assert buckets.lengths == (16, 40)
    assert buckets.heights == ((4, 8), (4, 8))
    for bad in ({"batch_size": 0}, {"lengths": (16, -1)}, {"lengths": (True,)}):
        with pytest.raises(ValueError, match="whole numbers"):
            make_buckets(40, **bad)


# -- batches, order, streams --------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINES)
def test_an_answer_is_that_of_the_input_alone(name):
    made_pipe, inputs = made(name), INPUTS[name][1]
    together = made_pipe(inputs)
    assert len(together) == len(inputs)
    for i in (0, len(inputs) // 2, len(inputs) - 1):
        close(together[i], made_pipe([inputs[i]])[0])
    assert any(str(together[0]) != str(answer) for answer in together[1:])


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_padding_changes_no_architecture_s_answers(arch):
    # The reference runs each text with no padding at all.
    bert, texts = model(arch), ragged(6, 9)
    made_pipe = pipe("feature-extraction", bert, buckets=(32,))
    found = made_pipe(texts)
    for i in (0, 3):
        ids = tokenizer()([texts[i]])["input_ids"]
        alone = bert(ids).last_hidden_state
        assert found[i].shape == alone.shape
        scale = float(np.abs(alone).max())
        np.testing.assert_allclose(found[i], alone, atol=1e-5 * max(scale, 1))


def test_padding_read_as_text_would_change_mobilebert():
    # What the test above guards against: with a plain mask the last tokens see the padding.
    bert = model("mobilebert")
    ids = tokenizer()(["the keeper wrote"])["input_ids"]
    padded = np.pad(ids, ((0, 0), (0, 5)))
    mask = (np.arange(padded.shape[1]) < ids.shape[1]).astype(np.int32)[None]
    alone = np.asarray(bert(ids).last_hidden_state)
    read = np.asarray(bert(padded, attention_mask=mask).last_hidden_state)[:, : ids.shape[1]]
    assert np.abs(alone - read).max() > 1e-3 * np.abs(alone).max()


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_multiple_choice_reads_each_choice_alone(arch):
    bert = model(arch, "multiple_choice")
    question, choices = "the keeper", ["a", "the ships and the bread he had"]
    found = pipe("multiple-choice", bert)({"prompt": question, "choices": choices})
    logits = []
    for choice in choices:
        tokens = tokenizer()([question], [choice])
        if arch == "distilbert":
            del tokens["token_type_ids"]
        logits.append(float(bert(**{k: v[:, None] for k, v in tokens.items()}).logits[0, 0]))
    expected = np.exp(logits) / np.exp(logits).sum()
    for answer in found:
        assert answer["choice"] == choices[answer["index"]]
        assert answer["score"] == pytest.approx(expected[answer["index"]], abs=1e-5)
    assert found[0]["score"] >= found[1]["score"]


def test_a_generator_is_answered_in_order_and_read_no_further_than_needed():
    classify, texts, read = fresh("text-classification", look_ahead=4), ragged(11), []

    def source():
        for text in texts:
            read.append(text)
            yield text

    answers = classify(source())
    assert read == []
    first = next(answers)
    assert read == texts[:4]
    close([first, *answers], classify(texts))


def test_what_a_failing_source_gave_first_is_answered():
    def source():
        yield from ["a", "b"]
        raise OSError("the disk is gone")

    answers = made("text-classification")(source())
    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(OSError, match="disk"):
        next(answers)


def test_ragged_texts_compile_each_bucket_once(caplog):
    caplog.set_level(logging.INFO, "jbert")
    classify = fresh("text-classification", look_ahead=50)
    for start in range(0, 300, 20):
        assert len(classify(ragged(20, 14, start))) == 20
    counts = classify.runner.compilations
    assert 0 < len(counts) <= len(classify.runner.buckets.shapes())
    assert set(counts.values()) == {1}
    told = [r for r in caplog.records if "compiling" in r.getMessage()]
    assert len(told) == len(counts)


def test_warmup_compiles_what_calls_need():
    classify = fresh("text-classification")
    assert classify.warmup(16) == 2 == len(classify.runner.compilations)
    classify(ragged(30, 5))
    assert len(classify.runner.compilations) == 2


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_warms_up(name):
    warm = made(name)
    assert warm.warmup(16) == 2
    before = dict(warm.runner.compilations)
    warm([warm.example])
    assert warm.runner.compilations == before


def test_compiling_again_is_logged_once(caplog):
    classify = fresh("text-classification")
    classify("a")
    for _ in range(2):
        classify.runner._compiled.plain.clear_cache()
        classify("a")
    assert [r.levelname for r in caplog.records if "compiling again" in r.message] == ["WARNING"]


def test_a_mesh_gives_the_same_answers():
    bert, texts = model("bert", "masked_lm"), INPUTS["fill-mask"][1][:3]
    mesh = jbert.make_mesh(data=2, fsdp=2, tensor=1, devices=jax.devices()[:4])
    spread = jax.device_put(bert.params, NamedSharding(mesh, PartitionSpec()))
    bert = dataclasses.replace(bert, params=spread, mesh=mesh)
    on_mesh = pipe("fill-mask", bert)
    assert on_mesh.runner.buckets.smallest == 4
    close(on_mesh(texts, top_k=2), made("fill-mask")(texts, top_k=2))


# -- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_in_nothing_out(name):
    assert len(made(name)([])) == 0
    assert list(made(name)(iter([]))) == []


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("bad", [None, b"bytes", 3, {"no": "text"}])
def test_what_is_no_input_is_refused_by_number(name, bad):
    made_pipe, good = made(name), INPUTS[name][1][0]
    with pytest.raises(PipelineError, match=r"inputs\[1\]"):
        made_pipe([good, bad])
    found = made_pipe([good, bad, good], on_error="return")
    assert isinstance(found[1], PipelineError)
    assert not isinstance(found[0], Exception)
    close(found[0], found[2])


@pytest.mark.parametrize("name", ["fill-mask", "text-classification", "next-sentence",
                                  "multiple-choice", "feature-extraction"])  # fmt: skip
def test_too_long_is_an_error_that_truncation_takes_away(name):
    long = "[MASK] " + "a " * 50
    item = {"next-sentence": {"text": long, "text_pair": long},
            "multiple-choice": {"question": long, "choices": [long]}}.get(name, long)  # fmt: skip
    with pytest.raises(PipelineError, match=r"inputs\[0\]: .* tokens and there is room for 32"):
        made(name)([item])
    assert made(name)([item], truncation=True)[0] is not None


def test_options_and_tasks_are_checked():
    with pytest.raises(ValueError, match="did you mean 'fill-mask'"):
        pipe("fill_mask", model("bert", "masked_lm"))
    with pytest.raises(PipelineError, match="task='masked_lm'"):
        pipe("fill-mask", model())
    with pytest.raises(TypeError, match="no option 'topk'"):
        fresh("fill-mask", topk=3)
    with pytest.raises(ValueError, match="top_k"):
        made("text-classification")("a", top_k=0)
    with pytest.raises(ValueError, match="on_error"):
        made("text-classification")("a", on_error="ignore")
    with pytest.raises(TypeError, match="expected text"):
        made("text-classification")(3)
    with pytest.raises(ValueError, match="look_ahead"):
        fresh("text-classification", look_ahead=0)


def test_tokenizers_that_do_not_fit_are_refused():
    bert = model("bert", "masked_lm")
    bare = jbert.Bert(bert.config, bert.module, bert.params, None, "masked_lm")
    with pytest.raises(PipelineError, match="tokenizer="):
        pipe("fill-mask", bare)
    larger = jbert.Tokenizer.train(ragged(50), vocab_size=400)
    larger.add_tokens([f"new{i}" for i in range(400)])
    with pytest.raises(ValueError, match="embeddings"):
        pipe("fill-mask", bare, tokenizer=larger)
    assert pipe("fill-mask", bare, tokenizer=tokenizer())("[MASK]")


# -- the compilation cache ----------------------------------------------------------------


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("JBERT_NO_COMPILE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    # Loading a model compiles: by then JAX has found that there is no cache.
    jax.jit(lambda x: x + 1)(1.0).block_until_ready()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_the_compilation_cache_is_on_unless_chosen_otherwise(no_cache, monkeypatch):
    assert compile_cache.enable_compile_cache() == no_cache / "jbert" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(no_cache / "jbert" / "compiled")
    jax.config.update("jax_compilation_cache_dir", str(no_cache / "mine"))
    assert compile_cache.enable_compile_cache() is None
    assert jax.config.jax_compilation_cache_dir == str(no_cache / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("JBERT_NO_COMPILE_CACHE", "1")
    assert compile_cache.enable_compile_cache() is None


def test_compiled_programs_are_kept_on_disk(no_cache):
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        fresh("text-classification")("a")
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    assert any((no_cache / "jbert" / "compiled").iterdir())
