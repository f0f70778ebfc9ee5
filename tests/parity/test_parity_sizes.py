"""The published models at full size: transformers' names and shapes, without a byte allocated."""

import math

import numpy as np
import oracle
import pytest
import torch
import transformers

from jbert.convert import TABLES
from jbert.convert.weights import match
from jbert.models import REGISTRY, presets

pytestmark = pytest.mark.parity

# The parameters of the bare encoder, poolers included, as transformers 5.23 builds it.
COUNTS = {
    "bert-base-cased": 108_310_272,
    "bert-base-chinese": 102_267_648,
    "bert-base-multilingual-cased": 177_853_440,
    "bert-base-multilingual-uncased": 167_356_416,
    "bert-base-uncased": 109_482_240,
    "bert-large-cased": 333_579_264,
    "bert-large-uncased": 335_141_888,
    "bert-medium": 41_373_184,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-tiny": 4_385_920,
    "conv-bert-base": 105_680_520,
    "conv-bert-medium-small": 17_475_888,
    "conv-bert-small": 13_143_768,
    "distilbert-base-cased": 65_190_912,
    "distilbert-base-multilingual-cased": 134_734_080,
    "distilbert-base-uncased": 66_362_880,
    "mobilebert-uncased": 24_581_888,
}
# Of IB-BERT, which was never published, transformers knows nothing.
PUBLISHED = {name: preset for name, preset in presets().items() if preset.hub_id}
CASES = [
    (name, task)
    for name, preset in sorted(PUBLISHED.items())
    for task in (None, "masked_lm", "pretraining")
    if task in REGISTRY[preset.config.model_type].tasks
]


def torch_shapes(config, task):
    """Names, tied ones included, and the number of distinct parameters behind them."""
    arch = config.model_type
    theirs = getattr(transformers, f"{oracle.NAMES[arch]}Config").from_dict(config.to_dict())
    with torch.device("meta"):
        model = getattr(transformers, oracle.NAMES[arch] + oracle.SUFFIXES[task])(theirs)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}, count


@pytest.mark.parametrize(("name", "task"), CASES)
def test_published_models_have_the_same_parameters(name, task):
    config = presets()[name].config
    arch = config.model_type
    shapes, count = torch_shapes(config, task)
    _, flat = oracle.build(config, task, {"input_ids": np.zeros((1, 8), np.int32)})
    matched = match(shapes, TABLES[arch], task, flat, name)
    assert not matched.absent
    assert set(matched.sources) == set(flat)
    assert sum(math.prod(leaf.shape) for leaf in flat.values()) == count
    if task is None:
        assert count == COUNTS[name]
        assert not matched.unused


def test_every_published_model_has_its_count():
    assert sorted(COUNTS) == sorted(PUBLISHED)
