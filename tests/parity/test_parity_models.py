"""Every architecture, variant and task: outputs, losses, gradients and weights, against torch."""

import numpy as np
import oracle
import pytest
import variants

from jbert.convert import TABLES
from jbert.convert.weights import export
from jbert.models import REGISTRY

pytestmark = [
    pytest.mark.parity,
    # torch, of MobileBERT's output table beyond the embeddings' width, where nothing is beyond.
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning"),
]

# Softmax does not see what is added to all of its logits: those of all keys, and here those of all
# choices or of all positions, to which the last biases of a model add the same.
BLIND_TO = {"multiple_choice": "/bias", "question_answering": "/bias"}
# In a decoder the first token sees only itself, so that heads on it alone ask no queries.
ON_FIRST_TOKEN = ("next_sentence", "sequence_classification", "multiple_choice")

CASES = variants.cases()
IDS = ["-".join([arch, variant, task or "model"]) for arch, variant, task in CASES]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def pair(request) -> oracle.Pair:
    arch, variant, task = request.param
    fields = variants.fields(arch, variant, task)
    config = REGISTRY[arch].config_class(**fields)
    inputs = variants.batch(arch, task, config)
    return oracle.run_both(arch, task, fields, inputs, variants.labels(task, config, inputs))


def test_outputs_agree(pair):
    pair.assert_outputs_agree()


def test_losses_agree(pair):
    pair.assert_losses_agree()


def test_gradients_agree(pair):
    pair.assert_gradients_agree()


def test_each_weight_matters(pair):
    """Guards the tests above: what does not move the loss would agree by itself."""
    alone = getattr(pair.config, "is_decoder", False) and pair.task in ON_FIRST_TOKEN
    for path in pair.reached:
        if alone and ("/query/" in path or "/key/" in path):
            continue
        if not path.endswith(BLIND_TO.get(pair.task, "/key/bias")):
            largest = np.abs(pair.gradients[path]).max()
            assert largest > 1e-5, f"the gradient of {path} is nowhere above {largest:.1e}"


def test_weights_go_in_and_come_back(pair):
    tied = pair.config.tie_word_embeddings
    assert not pair.matched.absent
    assert set(pair.matched.sources) == set(pair.params)
    written = export(pair.params, TABLES[pair.arch], pair.task)
    assert set(written) <= set(pair.arrays)
    for name, array in written.items():
        if name.endswith("predictions.bias") and not tied:
            continue  # where nothing ties it to decoder.bias, transformers has it and ignores it
        np.testing.assert_array_equal(array, pair.arrays[name], err_msg=name)
        assert array.dtype == pair.arrays[name].dtype
    left_out = set(pair.arrays) - set(written)
    assert left_out == set(pair.matched.unused)
    # All that is not written is the word embeddings' second name, in models that tie the two, and
    # a matrix without elements.
    left_out = {name for name in left_out if pair.arrays[name].size}
    if left_out:
        (name,), words = left_out, f"{pair.arch}.embeddings.word_embeddings.weight"
        assert tied
        assert np.shares_memory(pair.arrays[name], pair.arrays[words])
