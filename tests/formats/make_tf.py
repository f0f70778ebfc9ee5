"""Writes the TensorFlow checkpoints in `corpus/tf/` and their contents; needs TensorFlow.

    python tests/formats/make_tf.py

A one-layer BERT under google-research's names with its Adam slots and step, written whole and in
two shards; then what a reader must also know about: partitioned, V1 and TF2 checkpoints.
"""

import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

v1 = tf.compat.v1
CORPUS = Path(__file__).parent / "corpus" / "tf"
HIDDEN, VOCAB = 4, 11
LAYER = "bert/encoder/layer_0"
SHAPES = {
    "bert/embeddings/word_embeddings": (VOCAB, HIDDEN),
    "bert/embeddings/position_embeddings": (6, HIDDEN),
    "bert/embeddings/token_type_embeddings": (2, HIDDEN),
    "bert/embeddings/LayerNorm/beta": (HIDDEN,),
    "bert/embeddings/LayerNorm/gamma": (HIDDEN,),
    **{
        f"{LAYER}/attention/self/{part}/{leaf}": shape
        for part in ("query", "key", "value")
        for leaf, shape in (("kernel", (HIDDEN, HIDDEN)), ("bias", (HIDDEN,)))
    },
    f"{LAYER}/attention/output/dense/kernel": (HIDDEN, HIDDEN),
    f"{LAYER}/attention/output/dense/bias": (HIDDEN,),
    f"{LAYER}/intermediate/dense/kernel": (HIDDEN, 8),
    f"{LAYER}/output/dense/kernel": (8, HIDDEN),
    "bert/pooler/dense/kernel": (HIDDEN, HIDDEN),
    "cls/predictions/output_bias": (VOCAB,),
    "cls/seq_relationship/output_weights": (2, HIDDEN),
}
OTHER_DTYPES = ("float16", "bfloat16", "float64", "int32", "int8", "uint8", "bool", "complex64")


def values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    result = {}
    for name, shape in SHAPES.items():
        for slot in ("", "/adam_m", "/adam_v"):
            result[name + slot] = random.standard_normal(shape).astype(np.float32)
    result["global_step"] = np.int64(1_000_000)
    return result


def save(name: str, arrays: dict, devices: int = 1, partitioner=None, version=None) -> None:
    with tf.Graph().as_default():
        config = v1.ConfigProto(device_count={"CPU": devices})
        with v1.Session(config=config) as session:
            with v1.variable_scope("", partitioner=partitioner, use_resource=False):
                for index, (key, value) in enumerate(arrays.items()):
                    with tf.device(f"/cpu:{index % devices}"):
                        tensor = tf.convert_to_tensor(value)
                        # A constant cannot fill the parts of a partitioned variable.
                        fill = v1.constant_initializer(value)
                        initial = v1.zeros_initializer() if partitioner else fill
                        v1.get_variable(key, tensor.shape, tensor.dtype, initial)
            session.run(v1.global_variables_initializer())
            saver = v1.train.Saver(sharded=devices > 1, write_version=version or 2)
            path = str(CORPUS / name)
            saver.save(session, path, write_meta_graph=False, write_state=False)


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    arrays = values()
    save("bert_model.ckpt", arrays)
    save("sharded.ckpt", arrays, devices=2)
    tiny = np.arange(6, dtype=np.float32).reshape(2, 3)
    dtypes = {name: tf.constant(tiny).numpy() for name in ("float32",)}
    for name in OTHER_DTYPES:
        dtypes[name] = tf.cast(tf.constant(tiny), name).numpy()
    dtypes["scalar"], dtypes["empty"] = np.float32(2.5), np.zeros((0, 3), np.float32)
    save("dtypes.ckpt", dtypes)
    save("sliced.ckpt", {"table": tiny}, partitioner=v1.fixed_size_partitioner(2))
    save("old.ckpt", {"table": tiny}, version=v1.train.SaverDef.V1)
    tf.train.Checkpoint(table=tf.Variable(tiny)).write(str(CORPUS / "object"))
    expected = {"bert_model.ckpt": arrays, "sharded.ckpt": arrays, "dtypes.ckpt": dtypes}
    listing = {
        file: {
            name: [str(array.dtype), list(array.shape), array.tobytes().hex()]
            for name, array in contents.items()
        }
        for file, contents in expected.items()
    }
    text = json.dumps({"tensorflow": tf.__version__, "files": listing}, separators=(",", ":"))
    (CORPUS / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
