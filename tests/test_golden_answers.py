"""question-answering, against what transformers 4.57.6 answered."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden.make_answers import CONTEXT, FIELDS, HERE, OPTIONS, QUESTIONS, VOCAB
from golden.make_golden import values
from pipeline_models import close, pipe

import jbert
from jbert.convert import TABLES
from jbert.models import model_class

TASK = "question_answering"


@pytest.fixture(scope="module")
def ask():
    tokenizer = jbert.Tokenizer.from_vocab(VOCAB)
    config = jbert.BertConfig(vocab_size=len(tokenizer), **FIELDS)
    module = model_class(config, TASK)(config)
    ids = jnp.zeros((1, 4), jnp.int32)
    tree = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), ids))["params"]
    flat = flatten_dict(tree, sep="/")
    params = {}
    for rule in TABLES["bert"].rules(TASK, flat):
        shape = flat[rule.path].shape
        drawn = values(rule.hf, rule.transform.hf_shape(shape))
        params[rule.path] = jnp.asarray(rule.transform.to_jbert(drawn, shape))
    bert = jbert.Bert(config, module, unflatten_dict(params, sep="/"), tokenizer, TASK)
    return pipe("question-answering", bert, buckets=(48,))


@pytest.mark.parametrize("case", range(len(OPTIONS)))
def test_answers_are_transformers(ask, case):
    with open(HERE / "answers.json", encoding="utf-8") as file:
        golden = json.load(file)
    assert golden["origin"]["transformers"] == "4.57.6"
    found = ask(question=QUESTIONS, context=CONTEXT, **OPTIONS[case])
    for answer in np.ravel(found):
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]
    close(found, golden["answers"][case], 1e-5)
