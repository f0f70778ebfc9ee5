"""One and the same loss and gradient, however rows are laid out and whatever is projected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from corpora import SPECIAL, WORDS, corpus_of, make, tokenizer

from jbert.data.batches import WEIGHTS
from jbert.data.gathered import Gathered
from jbert.training.pretrain.objective import MaskedTokens
from jbert.trees import flatten

LENGTH = 20
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {
    "bert": {"num_hidden_layers": 1, **QUIET},
    "distilbert": {"n_layers": 1, "dropout": 0.0, "attention_dropout": 0.0},
    "mobilebert": {"num_hidden_layers": 1, **QUIET},
    # A kernel that reaches from one sequence far into the next.
    "convbert": {"num_hidden_layers": 1, "conv_kernel_size": 5, **QUIET},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    random = np.random.default_rng(0)
    documents = [random.integers(1, 8, random.integers(1, 4)).tolist() for _ in range(12)]
    return corpus_of(tokenizer(tmp_path_factory.mktemp("vocab")), documents)


def epoch(corpus, arch, gather=True, **options):
    """A whole epoch as one batch: all that there is to learn from."""
    source = make(corpus, max_length=LENGTH, **options)
    rows = Gathered(source) if gather else source
    batch = rows.batch(np.arange(len(rows)), LENGTH, 0)
    if arch == "distilbert":
        del batch["token_type_ids"]
    return batch | {WEIGHTS: np.ones(len(rows), np.float32)}


@functools.cache
def built(arch):
    sizes = {"vocab_size": WORDS + len(SPECIAL), "pad_token_id": 0, **SIZES[arch]}
    module, params = tiny.model(arch, "masked_lm", **sizes)
    return module, flatten(params)


def loss_and_gradient(arch, batch, chunked=True):
    module, params = built(arch)
    objective = MaskedTokens(module, "masked_lm", chunked)

    @jax.jit
    def run(params):
        def loss(params):
            (term,) = objective(params, batch, None)
            return term.mean(), term.count

        return jax.value_and_grad(loss, has_aux=True)(params)

    return run(params)


def assert_same(found, expected):
    (loss, count), gradient = found
    (wanted, its_count), its_gradient = expected
    assert count == its_count > 10
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in its_gradient.values())
    for path, leaf in its_gradient.items():
        # Some are zero but for rounding: a key's bias moves all scores of a query alike.
        tolerance = 1e-4 * max(float(jnp.abs(leaf).max()), 1e-2 * largest)
        np.testing.assert_allclose(gradient[path], leaf, atol=tolerance, rtol=0, err_msg=path)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_packed_rows_have_the_loss_and_the_gradient_of_sequences_alone(corpus, arch):
    packed, alone = epoch(corpus, arch), epoch(corpus, arch, pack=False)
    assert len(packed["labels"]) < 0.7 * len(alone["labels"])
    assert_same(loss_and_gradient(arch, packed), loss_and_gradient(arch, alone))


def test_what_is_projected_and_in_how_many_chunks_changes_nothing(corpus, monkeypatch):
    every = loss_and_gradient("bert", epoch(corpus, "bert", gather=False), chunked=False)
    for gather, chunked in ((True, False), (True, True), (False, True)):
        # Chunks of two positions a row.
        rows = epoch(corpus, "bert", gather)
        size = 2 * len(rows["labels"]) * (WORDS + len(SPECIAL))
        monkeypatch.setattr("jbert.cross_entropy.CHUNK", size)
        assert_same(loss_and_gradient("bert", rows, chunked), every)
