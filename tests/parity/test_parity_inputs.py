"""The arguments beside ids, a padding mask and segments: each on every architecture."""

import numpy as np
import oracle
import pytest
import variants

from jbert.models import REGISTRY

pytestmark = pytest.mark.parity

ARCHITECTURES = tuple(variants.BASE)


def pairs(share: float) -> np.ndarray:
    """Which queries see which keys, at random; each sees itself."""
    shape = (variants.ROWS, variants.LENGTH, variants.LENGTH)
    mask = (np.random.default_rng(3).random(shape) < share).astype(np.int32)
    return mask | np.eye(variants.LENGTH, dtype=np.int32)


def additive(mask: np.ndarray) -> np.ndarray:
    """A mask of pairs in the only form that transformers 5 takes one."""
    hidden = np.finfo(np.float32).min
    return np.where(mask[:, None] == 1, 0, hidden).astype(np.float32)


def setting(arch: str, **changes):
    fields = {**variants.BASE[arch], **changes}
    config = REGISTRY[arch].config_class(**fields)
    return fields, config, variants.batch(arch, None, config)


def assert_agrees(pair: oracle.Pair) -> None:
    pair.assert_outputs_agree()
    pair.assert_gradients_agree()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("blind", [False, True], ids=["seeing", "blind"])
def test_mask_of_pairs(arch, blind):
    fields, _, inputs = setting(arch)
    mask = pairs(share=0.6)
    if blind:
        mask[0, 2] = 0
    inputs["attention_mask"] = mask
    prepared = {"attention_mask": additive(mask)}
    pair = oracle.run_both(arch, None, fields, inputs, {}, prepared)
    pair.assert_outputs_agree()
    # A query that sees nothing averages over everything on both sides. But transformers, which adds
    # its mask to the scores, lets a gradient through to what the mask has drowned; jbert does not.
    if not blind:
        pair.assert_gradients_agree()


def test_mask_of_pairs_in_a_decoder():
    # A prepared mask is taken as it is by transformers 5, so the causal part has to be in it.
    fields, _, inputs = setting("bert", is_decoder=True)
    mask = pairs(share=0.6)
    inputs["attention_mask"] = mask
    causal = additive(np.tril(mask))
    assert_agrees(oracle.run_both("bert", None, fields, inputs, {}, {"attention_mask": causal}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_embeddings_instead_of_ids(arch):
    fields, config, inputs = setting(arch)
    shape = (*inputs.pop("input_ids").shape, config.embedding_width)
    inputs["inputs_embeds"] = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    assert_agrees(oracle.run_both(arch, None, fields, inputs, {}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_positions_of_ones_own(arch):
    fields, config, inputs = setting(arch)
    limit = config.max_position_embeddings
    positions = np.random.default_rng(5).integers(0, limit, inputs["input_ids"].shape)
    positions[0, :2] = limit - 1  # the last of the table, twice
    inputs["position_ids"] = positions.astype(np.int32)
    assert_agrees(oracle.run_both(arch, None, fields, inputs, {}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ids_alone(arch):
    # Padding is then text like any other.
    fields, _, inputs = setting(arch)
    assert_agrees(oracle.run_both(arch, None, fields, {"input_ids": inputs["input_ids"]}, {}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_single_token(arch):
    # Shorter than a trigram and than ConvBERT's taps.
    fields, config, _ = setting(arch)
    ids = np.random.default_rng(6).integers(0, config.vocab_size, (2, 1)).astype(np.int32)
    assert_agrees(oracle.run_both(arch, None, fields, {"input_ids": ids}, {}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_on_the_left(arch):
    fields, _, inputs = setting(arch)
    flipped = {name: np.ascontiguousarray(x[:, ::-1]) for name, x in inputs.items()}
    assert_agrees(oracle.run_both(arch, None, fields, flipped, {}))
