"""Sums over steps, and what the chip's peak is compared with."""

import json
import types

import jax
import numpy as np
import pytest
import tiny
from training_runs import Setup

from jbert.execution import Execution
from jbert.losses import Term
from jbert.training.meter import PEAKS, Sums, flops_per_token, is_finite, peak_flops


def figures(*terms, examples=2.0, tokens=7.0):
    return {"terms": [Term(*term) for term in terms], "examples": examples, "tokens": tokens}


def test_the_loss_of_several_steps_is_one_quotient_of_sums():
    sums = Sums()
    assert sums.loss() == 0
    sums.add(figures((6.0, 2.0, 1.0), (1.0, 1.0, 0.5)))
    sums.add(figures((0.0, 0.0, 1.0), (5.0, 3.0, 0.5)))
    assert sums.loss() == 6 / 2 + 0.5 * 6 / 4
    assert (sums.steps, sums.examples, sums.tokens) == (2, 4, 14)
    again = Sums(json.loads(json.dumps(sums.to_dict())))
    assert again.to_dict() == sums.to_dict() and again.loss() == sums.loss()
    again.add(figures((1.0, 1.0, 1.0), (0.0, 0.0, 0.5)))
    assert again.loss() != sums.loss()


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", PEAKS["NVIDIA A100"]),
        ("NVIDIA H100 80GB HBM3", PEAKS["NVIDIA H100"]),
        ("NVIDIA H100 PCIe", PEAKS["NVIDIA H100 PCIe"]),
        ("TPU v5 lite", PEAKS["TPU v5e"]),
        ("TPU v5p", PEAKS["TPU v5"]),
        ("NVIDIA L40S", None),
        ("cpu", None),
    ],
)
def test_the_peak_is_that_of_the_kind_of_device(kind, peak, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind)])
    assert peak_flops() == (None if peak is None else 8 * peak)


def test_operations_are_six_for_each_weight_and_attention():
    setup = Setup("bert")
    config, params = setup.module().config, setup.params()
    width, layers, hidden = 32, 2, 36
    weights = layers * (4 * width**2 + 2 * width * hidden) + width**2 + tiny.VOCAB * width
    expected = 6 * weights + 12 * layers * width * 100
    assert flops_per_token(params, config, 100) == expected
    scanned = Setup("bert", execution=Execution(scan_layers=True)).params()
    assert flops_per_token(scanned, config, 100) == expected


@pytest.mark.parametrize(
    ("finite", "norm", "good"), [(True, 1.0, True), (False, 1.0, False), (True, np.inf, False)]
)
def test_a_step_is_finite_in_its_loss_and_its_gradient(finite, norm, good):
    assert is_finite({"finite": np.asarray(finite), "grad_norm": np.float32(norm)}) == good
