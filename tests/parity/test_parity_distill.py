"""The losses of distillation on the same tensors as torch's, and MobileBERT's teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
import variants
from torch.nn import functional as F
from transformers.models.mobilebert import modeling_mobilebert

from jbert.models import REGISTRY
from jbert.training.distill import losses

pytestmark = pytest.mark.parity


def draw(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(np.float32)


STUDENT, TEACHER = draw(3, 5, 8), draw(3, 5, 8, seed=1)
KEPT = (np.random.default_rng(2).random((3, 5)) < 0.6).astype(np.float32)


def mean(values, kept):
    term = losses.total(values, kept)
    return term.total / term.count


def soft(student, teacher, kept, temperature=2.0):
    # transformers' examples/research_projects/distillation/distiller.py
    student, teacher = student[kept], teacher[kept]
    found = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1),
        reduction="batchmean",
    )  # fmt: skip
    return found * temperature**2


def cosine(student, teacher, kept):
    student, teacher = student[kept], teacher[kept]
    return F.cosine_embedding_loss(student, teacher, torch.ones(len(student)))


def feature_maps(student, teacher, kept):
    student, teacher = (F.layer_norm(x[kept], x.shape[-1:], eps=1e-12) for x in (student, teacher))
    return F.mse_loss(student, teacher)


CASES = {
    "soft": (lambda s, t, k: mean(losses.divergence(s, t, 2.0), k), soft),
    "cosine": (lambda s, t, k: mean(losses.cosine_distance(s, t), k), cosine),
    "hidden": (
        lambda s, t, k: mean(losses.squared_error(s, t), k),
        lambda s, t, k: F.mse_loss(s[k], t[k]),
    ),
    "feature maps": (
        lambda s, t, k: mean(losses.normalised_error(s, t), k),
        feature_maps,
    ),
    "means": (
        lambda s, t, k: mean(losses.mean_error(s, t), k),
        lambda s, t, k: F.mse_loss(s[k].mean(-1), t[k].mean(-1)),
    ),
    "variances": (
        lambda s, t, k: mean(losses.variance_error(s, t), k),
        lambda s, t, k: F.l1_loss(s[k].var(-1, correction=0), t[k].var(-1, correction=0)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_torch_s(name):
    ours, theirs = CASES[name]
    found, gradient = jax.value_and_grad(ours)(jnp.asarray(STUDENT), TEACHER, KEPT)
    student = torch.tensor(STUDENT, requires_grad=True)
    expected = theirs(student, torch.tensor(TEACHER), torch.tensor(KEPT) > 0)
    expected.backward()
    oracle.assert_close(found, expected, oracle.LAYER, name)
    oracle.assert_close(gradient, student.grad, oracle.LAYER, f"the gradient of {name}")


@pytest.mark.parametrize("kind", ["probabilities", "scores"])
def test_attention_transfer_is_torch_s(kind):
    """From scores, as torch has them, and from the weights that a model gives."""
    scores = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    visible = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)[:, None, :]

    def ours(student):
        maps = [
            jax.nn.softmax(jnp.where(visible[:, None], x, -1e30), axis=-1)
            for x in (student, scores[1])
        ]
        if kind == "scores":
            return losses.score_error(*maps, visible).mean()
        return losses.attention_divergence(*maps).mean()

    found, gradient = jax.value_and_grad(ours)(jnp.asarray(scores[0]))
    student, teacher = torch.tensor(scores[0], requires_grad=True), torch.tensor(scores[1])
    there = torch.tensor(visible)[:, None].expand_as(student)
    if kind == "scores":
        count = there.sum(-1, keepdim=True)

        def centred(x):
            return x - (x * there).sum(-1, keepdim=True) / count

        squares = ((centred(student) - centred(teacher)) * there) ** 2
        expected = (squares.sum(-1) / count[..., 0]).mean()
    else:
        hidden = [x.masked_fill(~there, -1e30) for x in (student, teacher)]
        found_by_torch = F.log_softmax(hidden[0], -1)
        wanted = F.softmax(hidden[1], -1)
        expected = F.kl_div(found_by_torch, wanted, reduction="none").sum(-1).mean()
    expected.backward()
    oracle.assert_close(found, expected, oracle.LAYER, kind)
    oracle.assert_close(gradient, student.grad, oracle.LAYER, f"the gradient of {kind}")


# -- IB-BERT --------------------------------------------------------------------------------------

INVERTED = {
    **variants.BASE["mobilebert"], "intra_bottleneck_size": 64, "intermediate_size": 96,
    "num_feedforward_networks": 1, "key_query_shared_bottleneck": False, "hidden_act": "gelu",
    "normalization_type": "layer_norm",
}  # fmt: skip


@pytest.fixture
def wide_queries(monkeypatch):
    """transformers' queries and keys as wide at their input as what they read: google-research's
    are, but its own always expect the width of a layer's inside."""
    attention = modeling_mobilebert.MobileBertSelfAttention
    original = attention.__init__

    def init(self, config):
        original(self, config)
        for name in ("query", "key"):
            setattr(self, name, torch.nn.Linear(config.hidden_size, self.all_head_size))

    monkeypatch.setattr(attention, "__init__", init)


@pytest.mark.parametrize("task", [None, "masked_lm", "pretraining"])
def test_the_inverted_bottleneck_is_transformers(wide_queries, task):
    config = REGISTRY["mobilebert"].config_class(**INVERTED)
    inputs = variants.batch("mobilebert", task, config)
    labels = variants.labels(task, config, inputs)
    pair = oracle.run_both("mobilebert", task, INVERTED, inputs, labels)
    query = pair.params["encoder/layer_0/attention/query/kernel" if task else
                        "layer_0/attention/query/kernel"]  # fmt: skip
    assert query.shape == (32, 4, 16)
    pair.assert_outputs_agree()
    pair.assert_losses_agree()
    pair.assert_gradients_agree()
