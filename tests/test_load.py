"""`jbert.load` from what others publish: names, formats, configurations, heads, devices, memory."""

import logging
import re

import disk
import jax
import ml_dtypes
import numpy as np
import pytest
import tiny

import jbert
from jbert.execution import Execution
from jbert.loaded import abstract_params
from jbert.restore import HeadWarning
from jbert.trees import flatten


def pairs():
    # transformers has no such class, so nobody publishes one.
    return [pair for pair in tiny.PAIRS if pair[1] != "replaced_token_detection"]


@pytest.mark.parametrize(("arch", "task"), pairs(), ids=lambda x: x or "model")
def test_published_models_load_bit_for_bit(arch, task, tmp_path):
    model = disk.bert(arch, task, num_labels=3)
    disk.publish(tmp_path, model)
    loaded = jbert.load(tmp_path, task)
    disk.assert_same(loaded.params, model.params)
    assert (loaded.task, loaded.config.num_labels, loaded.tokenizer) == (task, 3, None)


def swap(*changes: tuple[str, str]):
    def rename(name: str) -> str:
        for pattern, replacement in changes:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


GAMMA_BETA = swap((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))


@pytest.mark.parametrize(
    "rename",
    [
        GAMMA_BETA,
        swap((r"^bert\.", "")),
        swap((r"^", "module.")),
        swap((r"^", "_orig_mod.")),
        swap((r"^", "module._orig_mod."), (r"LayerNorm\.weight", "LayerNorm.gamma")),
        swap((r"^", "model.")),
    ],
    ids=["gamma_beta", "no_prefix", "data_parallel", "compiled", "both", "wrapped"],
)
def test_names_as_others_spell_them(rename, tmp_path):
    model = disk.bert("bert", "masked_lm")
    disk.publish(tmp_path, model, rename)
    disk.assert_same(jbert.load(tmp_path, "masked_lm").params, model.params)


def test_sentence_transformers_and_buffers(tmp_path):
    model = disk.bert("bert")
    buffers = {
        "0.auto_model.embeddings.position_ids": np.arange(32)[None],
        "0.auto_model.embeddings.token_type_ids": np.zeros((1, 32), np.int64),
    }
    disk.publish(tmp_path, model, swap((r"^", "0.auto_model.")), buffers)
    disk.assert_same(jbert.load(tmp_path).params, model.params)


def test_heads_and_prefixes_are_matched_both_ways(tmp_path):
    """A headless file under a head, and a file with a head for the encoder alone."""
    bare, headed = disk.bert("distilbert"), disk.bert("distilbert", "masked_lm")
    disk.publish(tmp_path / "bare", bare)
    with pytest.warns(HeadWarning) as caught:
        loaded = jbert.load(tmp_path / "bare", "sequence_classification", num_labels=5)
    (warning,) = caught
    for path in ("classifier/bias", "classifier/kernel", "pre_classifier/bias"):
        assert path in str(warning.message)
    assert warning.filename == __file__ and "encoder" not in str(warning.message)
    disk.assert_same(loaded.params["encoder"], bare.params)
    assert loaded.params["classifier"]["kernel"].shape[-1] == 5
    disk.publish(tmp_path / "headed", headed)
    disk.assert_same(jbert.load(tmp_path / "headed").params, headed.params["encoder"])
    disk.assert_same(jbert.load(tmp_path / "headed", "encoder").params, headed.params["encoder"])


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_beside_its_config(file, tmp_path):
    model = disk.bert("bert", "masked_lm", tokenizer=disk.tokenizer(tmp_path))
    disk.publish(tmp_path, model, file=file)
    for name in (tmp_path, tmp_path / file, str(tmp_path / file)):
        loaded = jbert.load(name, "masked_lm")
        disk.assert_same(loaded.params, model.params)
        assert loaded.tokenizer is not None
        assert loaded.source == str(name)


def test_configs_that_say_less(tmp_path, caplog):
    model = disk.bert("bert")
    disk.publish(tmp_path / "none", model, without=("architectures",))
    disk.assert_same(jbert.load(tmp_path / "none").params, model.params)
    disk.publish(tmp_path / "old", model, GAMMA_BETA, without=("architectures", "model_type"),
                 config_file="bert_config.json")  # fmt: skip
    with caplog.at_level(logging.WARNING, "jbert"):
        disk.assert_same(jbert.load(tmp_path / "old").params, model.params)
    assert "no model_type; the weights' names say 'bert'" in caplog.text


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_the_family_is_inferred_from_the_names(arch, tmp_path):
    model = disk.bert(arch, "masked_lm")
    disk.publish(tmp_path, model, without=("architectures", "model_type"))
    loaded = jbert.load(tmp_path, "masked_lm")
    assert loaded.config.model_type == arch
    disk.assert_same(loaded.params, model.params)


def test_no_config_no_weights_no_family(tmp_path):
    model = disk.bert()
    disk.publish(tmp_path / "a", model)
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="expected a config.json beside the weights"):
        jbert.load(tmp_path / "a")
    disk.publish(tmp_path / "b", model)
    (tmp_path / "b" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="found no weights"):
        jbert.load(tmp_path / "b")
    disk.publish(tmp_path / "c", model, swap((r".*", "x")), without=("model_type",))
    with pytest.raises(ValueError, match="which family this is; add model_type"):
        jbert.load(tmp_path / "c")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "brett"}')
    with pytest.raises(ValueError, match="did you mean 'bert'"):
        jbert.load(tmp_path / "b")


# -- what does not fit ----------------------------------------------------------------------


def test_four_lists_name_everything_that_is_wrong(tmp_path):
    model = disk.bert("bert", "masked_lm")
    query = "bert.encoder.layer.0.attention.self.query"
    add = {
        "bert.encoder.layer.7.output.dense.bias": np.zeros(32, np.float32),
        "bert.embeddings.LayerNorm.gamma": np.zeros(32, np.float32),
        f"{query}.bias": np.zeros(31, np.float32),
    }
    disk.publish(tmp_path, model, add=add, drop=(f"{query}.weight",))
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        jbert.load(tmp_path, "masked_lm")
    text = str(caught.value)
    for label, entry in (
        ("missing", f"{query}.weight"),
        ("unexpected", "bert.encoder.layer.7.output.dense.bias"),
        ("set twice", "bert.embeddings.LayerNorm.weight: "),
        ("of another shape", f"{query}.bias: expected (32,), found (31,)"),
    ):
        assert re.search(rf"  {label} \(1\):\n    {re.escape(entry)}", text), text
    # With the config of another size everything is wrong, and all of it is listed.
    with pytest.raises(ValueError, match=r"missing \(16\)[^¶]*of another shape \("):
        jbert.load(disk.publish(tmp_path / "b", disk.bert()), num_hidden_layers=3, vocab_size=98)


def test_labels_that_do_not_fit_are_an_error_and_asked_for_a_new_head(tmp_path):
    model = disk.bert("bert", "sequence_classification", id2label={0: "a", 1: "b", 2: "c"})
    disk.publish(tmp_path, model)
    disk.publish(tmp_path / "stale", model, config={"id2label": {"0": "x"}, "label2id": {"x": 0}})
    with pytest.raises(ValueError, match=r"classifier.weight: expected \(1, 32\), found \(3, 32\)"):
        jbert.load(tmp_path / "stale", "sequence_classification")
    same = jbert.load(tmp_path, "sequence_classification", num_labels=3)
    disk.assert_same(same.params, model.params)
    assert same.config.id2label == {0: "a", 1: "b", 2: "c"}
    with pytest.warns(HeadWarning, match="classifier/bias, classifier/kernel"):
        new = jbert.load(tmp_path, "sequence_classification", id2label={0: "no", 1: "yes"},
                         problem_type="multi_label_classification")  # fmt: skip
    assert (new.config.num_labels, new.config.problem_type) == (2, "multi_label_classification")
    disk.assert_same(new.params["encoder"], model.params["encoder"])


BIAS = "cls.predictions.transform.dense.bias"


def stored_as(tmp_path, change, **options):
    """A masked LM of which one weight is changed on disk, then loaded."""
    model = disk.bert("bert", "masked_lm")
    values = change(disk.arrays(model)[BIAS])
    disk.publish(tmp_path, model, add={BIAS: values})
    return jbert.load(tmp_path, "masked_lm", **options)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    def broken(bias):
        bias = bias.copy()
        bias[[1, 5]] = np.nan
        bias[7] = -np.inf
        return bias

    with pytest.raises(ValueError, match="mlm/transform/dense/bias: 3 of its values"):
        stored_as(tmp_path, broken)
    with pytest.raises(ValueError, match="dense/bias is stored as int8.*Quantised"):
        stored_as(tmp_path, lambda bias: bias.astype(np.int8))
    with pytest.raises(ValueError, match="dense/bias is stored as bool"):
        stored_as(tmp_path, lambda bias: bias > 0)
    with pytest.raises(ValueError, match=r"(?s)dense/bias: 32 of its values.*float32"):
        stored_as(tmp_path, lambda bias: bias * 0 + 70000, param_dtype="float16")
    with pytest.raises(ValueError, match="MobileBERT cannot run in float16"):
        jbert.load(disk.publish(tmp_path / "m", disk.bert("mobilebert")), param_dtype="float16")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_float_types_are_cast(dtype, tmp_path):
    expected = disk.arrays(disk.bert("bert", "masked_lm"))[BIAS].astype(dtype)
    loaded = stored_as(tmp_path, lambda bias: bias.astype(dtype))
    np.testing.assert_array_equal(
        flatten(loaded.params)["mlm/transform/dense/bias"], expected.astype(np.float32)
    )
    half = stored_as(tmp_path, lambda bias: bias.astype(dtype), param_dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}


def test_a_tied_decoder_stored_again(tmp_path):
    model = disk.bert("bert", "masked_lm")
    words = disk.arrays(model)["bert.embeddings.word_embeddings.weight"]
    bias = disk.arrays(model)["cls.predictions.bias"]
    name = "cls.predictions.decoder.weight"
    disk.publish(tmp_path, model, add={name: words, "cls.predictions.decoder.bias": bias})
    disk.assert_same(jbert.load(tmp_path, "masked_lm").params, model.params)
    disk.publish(tmp_path, model, add={name: words + 0.5})
    with pytest.warns(UserWarning, match=r"by up to 0.5.*tie_word_embeddings=False") as caught:
        tied = jbert.load(tmp_path, "masked_lm")
    assert [w.filename for w in caught] == [__file__]
    disk.assert_same(tied.params, model.params)
    untied = jbert.load(tmp_path, "masked_lm", tie_word_embeddings=False)
    np.testing.assert_array_equal(untied.params["mlm"]["decoder"], (words + 0.5).T)
    # It is no matter to a model that has no such output; the one warning is of its own head.
    with pytest.warns(HeadWarning, match="qa_outputs") as caught:
        jbert.load(tmp_path, "question_answering")
    assert len(caught) == 1


def test_what_is_asked_for_is_checked(tmp_path):
    disk.publish(tmp_path, disk.bert())
    for options, words in (
        ({"task": "mask_lm"}, "did you mean 'masked_lm'"),
        ({"hiden_size": 3}, "did you mean 'hidden_size'"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"param_dtype": "int8"}, "param_dtype is 'int8'"),
        ({"remat": "some"}, "remat is 'some'"),
        ({"attention": "fast"}, "attention is 'fast'"),
        ({"rules": "fdsp", "mesh": jbert.make_mesh()}, "sharding preset 'fdsp'"),
    ):
        with pytest.raises(ValueError, match=words):
            jbert.load(tmp_path, **options)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    disk.vocabulary(tmp_path)
    disk.publish(tmp_path, disk.bert(vocab_size=8))
    with pytest.raises(ValueError, match="the tokenizer has 16 tokens and the model 8"):
        jbert.load(tmp_path)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_shapes_and_axes_are_those_of_the_whole_model(arch):
    """Only one layer is traced; the others must be as it is."""
    layers = "n_layers" if arch == "distilbert" else "num_hidden_layers"
    module = disk.bert(arch, "masked_lm", **{layers: 3}).module
    inputs = tiny.batch(arch)
    whole = jax.eval_shape(lambda: module.init(jax.random.key(0), **inputs))["params"]
    found = abstract_params(module, boxed=True)
    assert jax.tree.structure(found) == jax.tree.structure(whole)  # with the names of the axes
    assert jax.tree.leaves(found) == jax.tree.leaves(whole)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("boxed", [False, True])
def test_shapes_may_be_changed_by_whom_they_were_given_to(scan, boxed):
    module = disk.bert("bert", "masked_lm", execution=Execution(scan_layers=scan)).module
    first = abstract_params(module, boxed)
    kept = jax.tree.map(lambda leaf: leaf, first)
    first["encoder"].clear()
    assert jax.tree.structure(abstract_params(module, boxed)) == jax.tree.structure(kept)
