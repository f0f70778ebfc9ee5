"""Losses with every kind of label: the number that torch reports, and the gradients it leads to."""

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
import variants
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.electra.modeling_electra import ElectraForPreTraining

from jbert import losses
from jbert.heads import Output
from jbert.models import REGISTRY

pytestmark = pytest.mark.parity

ARCHITECTURES = tuple(variants.BASE)
# num_labels, problem_type (None: guessed from the labels), the labels' kind.
PROBLEMS = [
    (1, None, "numbers"),
    (1, "regression", "numbers"),
    (3, "regression", "vectors"),
    (3, None, "classes"),
    (5, "single_label_classification", "classes"),
    (3, None, "vectors"),
    (5, "multi_label_classification", "vectors"),
]


def class_labels(kind: str, num_labels: int) -> np.ndarray:
    rng = np.random.default_rng(11)
    if kind == "classes":
        return rng.integers(0, num_labels, variants.ROWS).astype(np.int32)
    if kind == "numbers":
        return rng.standard_normal(variants.ROWS).astype(np.float32)
    return (rng.random((variants.ROWS, num_labels)) < 0.5).astype(np.float32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("num_labels", "problem", "kind"), PROBLEMS)
def test_problem_types(arch, num_labels, problem, kind):
    changes = {"num_labels": num_labels, "problem_type": problem}
    fields = {**variants.BASE[arch], **changes}
    config = REGISTRY[arch].config_class(**fields)
    inputs = variants.batch(arch, "sequence_classification", config)
    labels = {"labels": class_labels(kind, num_labels)}
    pair = oracle.run_both(arch, "sequence_classification", fields, inputs, labels)
    assert pair.output.logits.shape == (variants.ROWS, num_labels)
    pair.assert_outputs_agree()
    pair.assert_losses_agree()
    pair.assert_gradients_agree()


@pytest.mark.parametrize("masked", [False, True])
def test_replaced_token_loss_with_and_without_a_mask(masked):
    rng = np.random.default_rng(12)
    logits = rng.standard_normal((3, 7)).astype(np.float32) * 5
    labels = rng.integers(0, 2, (3, 7)).astype(np.int32)
    mask = (np.arange(7) < np.array([[7], [3], [1]])).astype(np.int32)
    given = {"labels": labels, **({"attention_mask": mask} if masked else {})}
    found = losses.loss(
        "replaced_token_detection", REGISTRY["bert"].config_class(),
        Output(logits=jnp.asarray(logits)), given,
    )  # fmt: skip
    expected = electra_loss(logits, given)
    oracle.assert_close(found, expected, oracle.LAYER, "the loss")


def electra_loss(logits: np.ndarray, given: dict[str, np.ndarray]) -> torch.Tensor:
    """ELECTRA's own forward pass, with logits in place of a model's."""
    model = oracle.Discriminator("bert", oracle.torch_config("bert", variants.BASE["bert"]))
    assert isinstance(model, ElectraForPreTraining)
    hidden = torch.zeros(*logits.shape, 32)
    model.electra.forward = lambda *a, **k: BaseModelOutput(last_hidden_state=hidden)
    model.discriminator_predictions.forward = lambda hidden: torch.from_numpy(logits)
    ids = torch.zeros(logits.shape, dtype=torch.long)
    return model(input_ids=ids, **oracle.tensors(given)).loss


@pytest.mark.parametrize("task", ["masked_lm", "token_classification", "question_answering"])
def test_nothing_to_learn_from(task):
    # A deliberate difference: torch divides 0 by 0, and one such batch ends a training run.
    fields = variants.BASE["bert"]
    config = REGISTRY["bert"].config_class(**fields)
    inputs = variants.batch("bert", task, config)
    nothing = {"labels": np.full(inputs["input_ids"].shape, -100, np.int32)}
    if task == "question_answering":
        outside = np.full(variants.ROWS, variants.LENGTH, np.int32)
        nothing = {"start_positions": outside, "end_positions": outside}
    pair = oracle.run_both("bert", task, fields, inputs, nothing)
    assert torch.isnan(pair.expected_loss)
    assert pair.loss == 0
    assert all((np.asarray(gradient) == 0).all() for gradient in pair.gradients.values())
