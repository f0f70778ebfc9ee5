"""Flax and TensorFlow 1 checkpoints load as the models that wrote them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict
from formats import tf_files
from formats.tf1_names import tf1_variables

import jbert
from jbert.convert import ConversionError
from jbert.convert.dialects import in_pytorch_words
from jbert.execution import Execution
from jbert.formats import Tensor, Weights, open_weights
from jbert.loaded import abstract_params, build_module
from jbert.restore import HeadWarning

FLAX = Path(__file__).parent / "formats" / "corpus" / "flax"
RECORDED = dict(np.load(FLAX / "outputs.npz"))
CASES = sorted(path.name for path in FLAX.iterdir() if path.is_dir())


def unread(names_and_shapes: dict[str, tuple[int, ...]], format: str, writer: str) -> Weights:
    def load():
        raise AssertionError("read before it was asked for")

    tensors = {
        name: Tensor(name, shape, np.dtype(np.float32), load, name)
        for name, shape in names_and_shapes.items()
    }
    return Weights(Path("file"), format, tensors, (), {"format": writer})


def words(names_and_shapes: dict, format: str, model_type: str, writer: str = "") -> dict:
    """The shapes under PyTorch's names; `writer` is what a safetensors file says wrote it."""
    tensors = in_pytorch_words(unread(names_and_shapes, format, writer), model_type)
    return {name: tensor.shape for name, tensor in tensors.items()}


def same_params(found, expected) -> None:
    found, expected = (flatten_dict(tree, sep="/") for tree in (found, expected))
    assert set(found) == set(expected)
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


# -- Flax -----------------------------------------------------------------------------------


def recorded(case: str, kind: str) -> dict[str, np.ndarray]:
    start = f"{case}.{kind}."
    return {k.removeprefix(start): x for k, x in RECORDED.items() if k.startswith(start)}


def task_of(case: str) -> str | None:
    return case.partition("_")[2] or None


def test_the_corpus_has_every_class():
    per_family = {"bert": 9, "distilbert": 6}
    for family, count in per_family.items():
        assert len([case for case in CASES if case.partition("_")[0] == family]) == count


@pytest.mark.parametrize("case", CASES)
def test_every_flax_class_loads_whole(case):
    """Every stored value is used once; a head that were missing would warn, an error here."""
    bert = jbert.load(FLAX / case, task=task_of(case))
    with open_weights(FLAX / case) as weights:
        stored = sorted(float(np.square(tensor.read()).sum()) for tensor in weights.values())
    loaded = sorted(float(np.square(x).sum()) for x in jax.tree.leaves(bert.params))
    np.testing.assert_allclose(loaded, stored, rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    ["bert_pretraining", "bert_causal_lm", "bert_masked_lm", "bert_question_answering",
     "bert_token_classification", "distilbert_masked_lm", "distilbert_multiple_choice"],
)  # fmt: skip
def test_gives_the_flax_classes_outputs(case):
    bert = jbert.load(FLAX / case, task=task_of(case))
    run = jax.jit(lambda params, inputs: bert.module.apply({"params": params}, **inputs))
    output = run(bert.params, recorded(case, "in"))
    expected = recorded(case, "out")
    assert expected
    for name, x in expected.items():
        np.testing.assert_allclose(output[name], x, atol=2e-6, err_msg=name)


def test_flax_names_and_layouts():
    names = {
        "bert/embeddings/word_embeddings/embedding": (20, 8),
        "bert/encoder/layer/0/attention/self/query/kernel": (8, 6),
        "bert/encoder/layer/0/attention/self/query/bias": (6,),
        "bert/encoder/layer/0/output/LayerNorm/scale": (8,),
        "cls/predictions/bias": (20,),
        "cls/seq_relationship/kernel": (8, 2),
    }
    expected = {
        "bert.embeddings.word_embeddings.weight": (20, 8),
        "bert.encoder.layer.0.attention.self.query.weight": (6, 8),
        "bert.encoder.layer.0.attention.self.query.bias": (6,),
        "bert.encoder.layer.0.output.LayerNorm.weight": (8,),
        "cls.predictions.bias": (20,),
        "cls.seq_relationship.weight": (2, 8),
    }
    assert words(names, "flax", "bert") == expected
    dotted = {name.replace("/", "."): shape for name, shape in names.items()}
    assert words(dotted, "safetensors", "bert", "flax") == expected
    assert words(expected, "safetensors", "bert", "pt") == expected
    assert words(names, "torch", "bert") == names


def test_a_train_state_is_its_parameters(tmp_path):
    params = msgpack_restore((FLAX / "bert" / "flax_model.msgpack").read_bytes())
    moments = {"0": {"mu": params, "nu": params, "count": np.int32(3)}}
    states = {
        "variables": {"params": params},
        "state": {"params": {"params": params}, "opt_state": moments, "step": np.int32(3)},
    }
    expected = jbert.load(FLAX / "bert").params
    for name, state in states.items():
        shutil.copytree(FLAX / "bert", tmp_path / name)
        (tmp_path / name / "flax_model.msgpack").write_bytes(msgpack_serialize(state))
        same_params(jbert.load(tmp_path / name).params, expected)


# -- TensorFlow 1 ---------------------------------------------------------------------------

TF1_MODELS = [
    ("bert", None, {}),
    ("bert", "pretraining", {}),
    ("bert", "next_sentence", {}),
    ("bert", "sequence_classification", {"num_labels": 3}),
    ("bert", "token_classification", {"num_labels": 5}),
    ("bert", "question_answering", {}),
    ("mobilebert", "pretraining", {}),
    ("mobilebert", "question_answering", {}),
    ("mobilebert", "sequence_classification", {"classifier_activation": False}),
    ("convbert", None, {"num_groups": 1}),
    ("convbert", "masked_lm", {}),
    ("convbert", "replaced_token_detection", {}),
]


def tf1_checkpoint(directory: Path, arch: str, task: str | None, changes: dict, **extra):
    """A directory as the repositories publish it, and the parameters in it."""
    config = tiny.config(arch, task, num_hidden_layers=1, **changes)
    shapes = abstract_params(build_module(config, task, Execution()))
    params = tiny.random_params(shapes)
    variables = tf1_variables(arch, flatten_dict(params, sep="/"))
    # TensorFlow's own numbers: an optimiser's slots, a step, the scale of a loss.
    slots = {
        f"{name}/{slot}": np.full_like(x, 9)
        for name, x in variables.items()
        for slot in ("adam_m", "adam_v", "AdamWeightDecayOptimizer_1")
        if x.ndim == 1
    }
    counters = {"global_step": np.int64(9), "loss_scale": np.float32(9)}
    tf_files.write(directory, variables | slots | counters | extra)
    values = {k: v for k, v in config.to_dict().items() if k != "model_type"}
    values |= {"directionality": "bidi", "pooler_type": "first_token_transform"}
    (directory / "bert_config.json").write_text(json.dumps(values))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"w{i}" for i in range(config.vocab_size - len(tokens))]
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return params


@pytest.mark.parametrize(
    ("arch", "task", "changes"), TF1_MODELS, ids=[f"{a}-{t}-{len(c)}" for a, t, c in TF1_MODELS]
)
def test_tf1_directory_loads(tmp_path, caplog, arch, task, changes):
    expected = tf1_checkpoint(tmp_path, arch, task, changes)
    bert = jbert.load(tmp_path, task=task)
    same_params(bert.params, expected)
    assert bert.config.model_type == arch
    assert f"the weights' names say '{arch}'" in caplog.text
    assert bert.tokenizer is not None


def test_tf1_names_of_bert():
    layer, ours = "bert/encoder/layer_11", "bert.encoder.layer.11"
    names = {
        "bert/embeddings/word_embeddings": ((99, 8), "bert.embeddings.word_embeddings.weight"),
        "bert/embeddings/position_embeddings":
            ((32, 8), "bert.embeddings.position_embeddings.weight"),
        "bert/embeddings/token_type_embeddings":
            ((2, 8), "bert.embeddings.token_type_embeddings.weight"),
        "bert/embeddings/LayerNorm/gamma": ((8,), "bert.embeddings.LayerNorm.weight"),
        "bert/embeddings/LayerNorm/beta": ((8,), "bert.embeddings.LayerNorm.bias"),
        f"{layer}/attention/self/query/kernel": ((8, 6), f"{ours}.attention.self.query.weight"),
        f"{layer}/attention/self/query/bias": ((6,), f"{ours}.attention.self.query.bias"),
        f"{layer}/attention/output/dense/kernel": ((6, 8), f"{ours}.attention.output.dense.weight"),
        f"{layer}/intermediate/dense/kernel": ((8, 9), f"{ours}.intermediate.dense.weight"),
        f"{layer}/output/LayerNorm/beta": ((8,), f"{ours}.output.LayerNorm.bias"),
        "bert/pooler/dense/kernel": ((8, 7), "bert.pooler.dense.weight"),
        "cls/predictions/transform/dense/kernel":
            ((8, 7), "cls.predictions.transform.dense.weight"),
        "cls/predictions/output_bias": ((99,), "cls.predictions.bias"),
    }  # fmt: skip
    expected = {name: shape[::-1] if "kernel" in tf1 else shape
                for tf1, (shape, name) in names.items()}  # fmt: skip
    # These are stored as PyTorch does, one row for each label.
    heads = {
        "cls/seq_relationship/output_weights": ((2, 8), "cls.seq_relationship.weight"),
        "cls/seq_relationship/output_bias": ((2,), "cls.seq_relationship.bias"),
        "cls/squad/output_weights": ((2, 8), "qa_outputs.weight"),
        "cls/squad/output_bias": ((2,), "qa_outputs.bias"),
        "output_weights": ((3, 8), "classifier.weight"),
        "output_bias": ((3,), "classifier.bias"),
    }
    expected |= {name: shape for shape, name in heads.values()}
    stored = {name: shape for name, (shape, _) in (names | heads).items()}
    assert words(stored, "tf", "bert") == expected


def test_tf1_names_of_mobilebert():
    layer, ours = "bert/encoder/layer_0", "mobilebert.encoder.layer.0"
    stored = {
        "bert/embeddings/embedding_transformation/kernel": (12, 8),
        f"{layer}/bottleneck/input/FakeLayerNorm/gamma": (4,),
        f"{layer}/ffn_layer_2/intermediate/dense/kernel": (4, 9),
        f"{layer}/output/bottleneck/dense/kernel": (4, 8),
        "cls/predictions/transform/LayerNorm/gamma": (8,),
        "cls/predictions/extra_output_weights": (99, 4),
    }
    assert words(stored, "tf", "mobilebert") == {
        "mobilebert.embeddings.embedding_transformation.weight": (8, 12),
        f"{ours}.bottleneck.input.LayerNorm.weight": (4,),
        f"{ours}.ffn.2.intermediate.dense.weight": (9, 4),
        f"{ours}.output.bottleneck.dense.weight": (8, 4),
        "cls.predictions.transform.LayerNorm.weight": (8,),
        "cls.predictions.dense.weight": (4, 99),
    }


def test_tf1_names_of_convbert():
    layer, ours = "electra/encoder/layer_0", "convbert.encoder.layer.0"
    attention, ours_attention = f"{layer}/attention/self", f"{ours}.attention.self"
    stored = {
        "electra/embeddings_project/kernel": (4, 8),
        f"{attention}/conv_attn_key/depthwise_kernel": (3, 8, 1),
        f"{attention}/conv_attn_key/pointwise_kernel": (1, 8, 6),
        f"{attention}/conv_attn_key/bias": (6,),
        f"{attention}/conv_attn_kernel/kernel": (6, 9),
        f"{attention}/conv_attn_point/kernel": (8, 6),
        f"{layer}/intermediate/g_dense/kernel": (2, 4, 5),
        f"{layer}/intermediate/g_dense/bias": (10,),
        f"{layer}/output/dense/kernel": (10, 8),
        "discriminator_predictions/dense/kernel": (8, 7),
        "discriminator_predictions/dense_1/kernel": (7, 1),
    }
    expected = {
        "convbert.embeddings_project.weight": (8, 4),
        f"{ours_attention}.key_conv_attn_layer.depthwise.weight": (8, 1, 3),
        f"{ours_attention}.key_conv_attn_layer.pointwise.weight": (6, 8, 1),
        f"{ours_attention}.key_conv_attn_layer.bias": (6, 1),
        f"{ours_attention}.conv_kernel_layer.weight": (9, 6),
        f"{ours_attention}.conv_out_layer.weight": (6, 8),
        f"{ours}.intermediate.dense.weight": (2, 4, 5),
        f"{ours}.intermediate.dense.bias": (10,),
        f"{ours}.output.dense.weight": (8, 10),
        "discriminator_predictions.dense.weight": (7, 8),
        "discriminator_predictions.dense_prediction.weight": (1, 7),
    }
    assert words(stored, "tf", "convbert") == expected
    # Without a generator of its own the discriminator predicts masked words too.
    head = {
        "generator_predictions/dense/kernel": (8, 4),
        "generator_predictions/output_bias": (99,),
    }
    assert words(stored | head, "tf", "convbert") == expected | {
        "generator_predictions.dense.weight": (4, 8), "generator_lm_head.bias": (99,),
    }  # fmt: skip
    generator = {"generator/encoder/layer_0/output/LayerNorm/beta": (2,)}
    others = {"task_specific/cola/dense/kernel": (8, 2)}
    assert words(stored | head | generator | others, "tf", "convbert") == expected


def test_a_generator_is_not_taken_for_the_discriminator(tmp_path):
    generator = {
        "generator/encoder/layer_0/output/dense/kernel": np.ones((8, 2), np.float32),
        "generator_predictions/dense/kernel": np.ones((2, 16), np.float32),
    }
    expected = tf1_checkpoint(tmp_path, "convbert", "replaced_token_detection", {}, **generator)
    same_params(jbert.load(tmp_path, task="replaced_token_detection").params, expected)
    with pytest.warns(HeadWarning, match="mlm/transform/dense/kernel"):
        jbert.load(tmp_path, task="masked_lm")


def test_electra_base_is_a_bert():
    stored = {"electra/encoder/layer_0/output/dense/kernel": (9, 8), "electra/unheard/of": (1,)}
    assert words(stored, "tf", "bert") == {
        "bert.encoder.layer.0.output.dense.weight": (8, 9), "electra/unheard/of": (1,),
    }  # fmt: skip


def test_names_that_are_not_understood_are_refused_as_stored(tmp_path):
    extra = {"crf_loss/transitions": np.ones((3, 3), np.float32)}
    tf1_checkpoint(tmp_path, "bert", None, {}, **extra)
    with pytest.raises(ConversionError, match=r"unexpected \(1\):\n    crf_loss/transitions"):
        jbert.load(tmp_path)


def test_two_spellings_of_one_weight_are_refused():
    stored = {f"bert/embeddings/{norm}/gamma": (8,) for norm in ("LayerNorm", "FakeLayerNorm")}
    both = r"LayerNorm/gamma and bert/embeddings/FakeLayerNorm/gamma would both be mobilebert\.emb"
    with pytest.raises(ConversionError, match=both):
        words(stored, "tf", "mobilebert")
    with pytest.raises(ConversionError, match="a/kernel and a/scale would both be a.weight"):
        words({"a/kernel": (1,), "a/scale": (1,)}, "flax", "bert")


def test_tensorflow_2_is_refused_by_name():
    name = "model/layer_with_weights-0/layer/.ATTRIBUTES/VARIABLE_VALUE"
    with pytest.raises(ConversionError, match="expected a TensorFlow 1 checkpoint"):
        words({name: (1,)}, "tf", "bert")
    with pytest.raises(ConversionError, match="Keras"):
        words({"bert/encoder/layer_._0/dense/kernel:0": (1, 1)}, "safetensors", "bert", "tf")


def test_shapes_are_known_and_values_come_when_read():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[None]
    name = "electra/encoder/layer_0/attention/self/conv_attn_key/pointwise_kernel"
    reads = []

    def load():
        reads.append(name)
        return values

    tensor = Tensor(name, values.shape, values.dtype, load, "bytes")
    (found,) = in_pytorch_words(Weights(Path("f"), "tf", {name: tensor}, ()), "convbert").values()
    assert (found.shape, found.dtype, found.storage, reads) == (
        (6, 4, 1),
        values.dtype,
        "bytes",
        [],
    )
    np.testing.assert_array_equal(found.read()[:, :, 0], values[0].T)
    assert reads == [name] and np.shares_memory(found.read(), values)
