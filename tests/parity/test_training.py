"""Fifty steps of training beside torch's: the same weights, batches, optimizer and schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
import transformers
from training_runs import Setup, batches, loss_of, make_rows

from jbert.training.config import OptimizerConfig
from jbert.training.optimizer import Optimizer
from jbert.training.step import State
from jbert.trees import flatten

pytestmark = pytest.mark.parity

STEPS, WARMUP, SIZE = 50, 5, 8
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=WARMUP, weight_decay=0.1)
# A ReLU within a rounding error of its kink has a gradient or none, and Adam makes as much of it
# as of any other; with this epsilon less. Only MobileBERT has them.
EPSILON = {"mobilebert": 1e-4}
TASKS = {
    "bert": "sequence_classification",
    "distilbert": "question_answering",
    "mobilebert": "masked_lm",
    "convbert": "token_classification",
}
# Softmax takes no notice of them: their gradients are rounding errors, which Adam enlarges.
WITHOUT_GRADIENT = ("attention/key/bias", "qa_outputs/bias")


def torch_optimizer(model, c):
    """As transformers' Trainer makes it."""
    norms = ("layernorm.weight", "layer_norm.weight")
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or name.lower().endswith(norms)
        (rest if plain else decayed).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": c.weight_decay}, {"params": rest, "weight_decay": 0}],
        lr=c.learning_rate, betas=(c.beta1, c.beta2), eps=c.epsilon,
    )  # fmt: skip


def follow_torch(model, config, given):
    optimizer = torch_optimizer(model, config)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    losses, norms = [], []
    for batch in given:
        real = batch["weights"] > 0
        inputs = {name: values[real] for name, values in batch.items() if name != "weights"}
        loss = model(**oracle.tensors(inputs)).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return np.array(losses), np.array(norms)


def follow_jbert(setup, params, given):
    step = dataclasses.replace(setup.step(), optimizer=Optimizer(setup.optimizer, STEPS, 2))
    state = State(jnp.int32(0), params, step.optimizer.init(params))
    run, losses, norms = jax.jit(step), [], []
    for batch in given:
        state, figures = run(state, batch)
        losses.append(loss_of(figures))
        norms.append(float(figures["grad_norm"]))
    return np.array(losses), np.array(norms), state.params


@pytest.mark.parametrize(("arch", "task"), TASKS.items())
def test_fifty_steps_follow_torch(arch, task):
    optimizer = dataclasses.replace(OPTIMIZER, epsilon=EPSILON.get(arch, OPTIMIZER.epsilon))
    setup = Setup(arch, task, optimizer=optimizer)
    reference = oracle.torch_model(arch, task, setup.fields())
    given = batches(make_rows(arch, task), STEPS, SIZE)
    _, flat = oracle.build(setup.module().config, task, {"input_ids": given[0]["input_ids"]})
    matched = oracle.paired(oracle.named(reference, arch), arch, task, flat)

    def converted():
        arrays = {name: value.copy() for name, value in oracle.named(reference, arch).items()}
        return flatten(oracle.to_jbert(arrays, matched, flat))

    before = converted()
    losses, norms, params = follow_jbert(setup, before, given)
    expected, expected_norms = follow_torch(reference, optimizer, given)
    after = converted()
    difference = np.abs(losses - expected) / np.maximum(np.abs(expected), 1)
    apart = {
        path: float(np.abs(params[path] - value).max())
        for path, value in after.items() if not path.endswith(WITHOUT_GRADIENT)
    }  # fmt: skip
    moved = max(float(np.abs(value - before[path]).max()) for path, value in after.items())
    print(f"{arch} {task}: losses {expected[0]:.4f} to {expected[-1]:.4f} apart by "
          f"{difference.max():.1e}, parameters, which moved by {moved:.1e}, by "
          f"{max(apart.values()):.1e}")  # fmt: skip
    assert difference.max() < 1e-4
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-3)
    assert max(apart.values()) < 0.01 * moved, max(apart, key=lambda path: apart[path])
    assert expected[-3:].mean() < 0.8 * expected[:3].mean()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_transformers(schedule, warmup):
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    total = {} if schedule == "constant" else {"num_training_steps": 30}
    name = f"get_{schedule}_schedule_with_warmup"
    running = getattr(transformers, name)(theirs, num_warmup_steps=warmup, **total)
    ours = Optimizer(
        OptimizerConfig(learning_rate=0.3, schedule=schedule, warmup_steps=warmup), 30, 0
    )
    for count in range(30):
        rate = running.get_last_lr()[0]
        np.testing.assert_allclose(ours.learning_rate(count), rate, atol=1e-7)
        theirs.step()
        running.step()
