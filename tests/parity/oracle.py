"""The reference: a torch model with random weights, and jbert's parameters made from the same.

Tolerances: what is compared may differ by the rung's share of its own largest magnitude, and, but
for MobileBERT, whose values may grow large, by no more than that in absolute terms either.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers.models.electra.modeling_electra import (
    ElectraDiscriminatorPredictions,
    ElectraForPreTraining,
)

from jbert import losses
from jbert.convert import TABLES
from jbert.convert.weights import Matched, match
from jbert.models import REGISTRY, model_class

torch.set_num_threads(1)  # these models are far too small to share out

LAYER = 1e-5
MODEL = 1e-4
# Differences up to here are the rounding of sums of values around 1, whatever is left of them.
ROUNDING = 2 * float(np.finfo(np.float32).eps)

NAMES = {"bert": "Bert", "distilbert": "DistilBert", "mobilebert": "MobileBert",
         "convbert": "ConvBert"}  # fmt: skip
SUFFIXES = {
    None: "Model",
    "pretraining": "ForPreTraining",
    "masked_lm": "ForMaskedLM",
    "causal_lm": "LMHeadModel",
    "next_sentence": "ForNextSentencePrediction",
    "sequence_classification": "ForSequenceClassification",
    "multiple_choice": "ForMultipleChoice",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
# The architectures whose encoder may come without its pooler.
POOLERS = ("bert", "mobilebert")


class Discriminator(ElectraForPreTraining):
    """ELECTRA's own forward pass and loss, on top of another architecture's encoder."""

    def __init__(self, arch: str, config: Any):
        torch.nn.Module.__init__(self)
        self.config = config
        base = getattr(transformers, f"{NAMES[arch]}Model")
        extra = {"add_pooling_layer": False} if arch in POOLERS else {}
        self.electra = base(config, **extra)
        # DistilBERT calls its activation by another name.
        act = getattr(config, "hidden_act", None) or config.activation
        sizes = types.SimpleNamespace(hidden_size=config.hidden_size, hidden_act=act)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(sizes)


def torch_config(arch: str, fields: Mapping[str, Any]) -> Any:
    config = getattr(transformers, f"{NAMES[arch]}Config")(**fields)
    config._attn_implementation = "eager"  # the one that returns attention maps
    return config


def torch_model(arch: str, task: str | None, fields: Mapping[str, Any], seed: int = 0) -> Any:
    """transformers' model, in inference mode, with weights of which each moves the output."""
    config = torch_config(arch, fields)
    if task == "replaced_token_detection":
        model = Discriminator(arch, config)
    else:
        model = getattr(transformers, NAMES[arch] + SUFFIXES[task])(config)
    randomise(model, arch, config, seed)
    return model.eval()


def randomise(model: torch.nn.Module, arch: str, config: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fixed = arch == "distilbert" and config.sinusoidal_pos_embds
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if fixed and name.endswith("position_embeddings.weight"):
                # transformers 4 froze the sinusoids; 5 leaves them trainable by an oversight of
                # its rewritten initialisation. jbert keeps them fixed, as is documented.
                parameter.requires_grad_(False)
                continue
            # Large enough for attention to be sharp: q·k/sqrt(e) has a deviation of about 2.
            # MobileBERT's activations, which no norms hold, reach that with less.
            spread = 0.18 if arch == "mobilebert" else 0.25
            parameter.normal_(0.0, spread, generator=generator)
            if name.lower().endswith(("layernorm.weight", "layer_norm.weight")):
                parameter.add_(1.0)


def named(model: torch.nn.Module, arch: str, values=lambda p: p) -> dict[str, np.ndarray]:
    """One array for each name that a saved file could have, tied names included."""
    pairs = model.named_parameters(remove_duplicate=False)
    return {
        (arch + name[len("electra"):] if name.startswith("electra.") else name):
            values(parameter).detach().numpy()
        for name, parameter in pairs
    }  # fmt: skip


def gradients(model: torch.nn.Module, arch: str) -> dict[str, np.ndarray]:
    """Gradients under the same names; zero for what the loss does not depend on."""
    return named(model, arch, lambda p: torch.zeros_like(p) if p.grad is None else p.grad)


def build(config: Any, task: str | None, inputs: Mapping[str, Any]):
    """jbert's module, and the abstract parameters of its tree by path."""
    module = model_class(config, task)(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), **inputs)["params"]
    return module, flatten_dict(nn.unbox(shapes), sep="/")


def paired(arrays: Mapping[str, np.ndarray], arch: str, task: str | None, flat) -> Matched:
    shapes = {name: array.shape for name, array in arrays.items()}
    return match(shapes, TABLES[arch], task, flat, "the torch model")


def to_jbert(arrays: Mapping[str, np.ndarray], matched: Matched, flat) -> Any:
    """Arrays under Hugging Face's names as a tree like jbert's parameters."""
    tree = {}
    for path, (rule, name) in matched.sources.items():
        tree[path] = jnp.asarray(rule.transform.to_jbert(arrays[name], flat[path].shape))
    return unflatten_dict(tree, sep="/")


def tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The same arguments for torch, which wants its indices long."""
    out = {}
    for name, value in arrays.items():
        tensor = torch.from_numpy(np.array(value))
        out[name] = tensor.long() if not tensor.is_floating_point() else tensor
    return out


def deviation(actual: Any, expected: Any, relative: bool) -> float:
    """The largest difference as a share of the largest value; see the module's docstring."""
    actual = np.asarray(actual, np.float64)
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    assert np.isfinite(actual).all(), "found a value that is not finite"
    if not actual.size:
        return 0.0
    difference = np.abs(actual - expected).max()
    scale = np.abs(expected).max()
    if not relative:
        scale = min(scale, 1.0)
    return 0.0 if difference <= ROUNDING else float(difference / max(scale, 1e-30))


def assert_close(actual: Any, expected: Any, tolerance: float, what: str, relative: bool = False):
    found = deviation(actual, expected, relative)
    assert found <= tolerance, f"{what} deviates by {found:.2e}; expected at most {tolerance:.0e}"


def outputs(output: Any) -> dict[str, Any]:
    """Every array of an Output or of transformers' own, flat by name and layer."""
    flat = {}
    for name in output.keys():
        value = output[name]
        if name in ("loss", "past_key_values", "cache"):
            continue
        if isinstance(value, tuple):
            flat |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            flat[name] = value
    return flat


@dataclasses.dataclass
class Pair:
    """The same model twice, after one forward and one backward pass each."""

    arch: str
    task: str | None
    config: Any
    arrays: dict[str, np.ndarray]  # the torch model's, under its own names
    matched: Matched
    params: dict[str, Any]  # jbert's, by path
    expected: Any
    expected_loss: torch.Tensor
    expected_gradients: dict[str, Any]
    output: Any
    loss: jax.Array
    gradients: dict[str, Any]
    reached: set[str]  # the paths of the parameters that torch's loss depends on

    @property
    def relative(self) -> bool:
        return self.arch == "mobilebert"

    def assert_outputs_agree(self) -> None:
        actual, expected = outputs(self.output), outputs(self.expected)
        assert sorted(actual) == sorted(expected)
        for name, value in expected.items():
            assert_close(actual[name], value, MODEL, name, self.relative)

    def assert_losses_agree(self) -> None:
        assert_close(self.loss, self.expected_loss, MODEL, "the loss", self.relative)

    def assert_gradients_agree(self) -> None:
        assert sorted(self.gradients) == sorted(self.expected_gradients)
        largest = max(np.abs(g).max() for g in self.expected_gradients.values())
        for path, expected in self.expected_gradients.items():
            found, rounding = self.gradients[path], LAYER * largest
            if np.abs(expected).max() <= rounding:
                # Zero but for the rounding of a sum that cancels, as the gradient of a key's bias
                # is: there are no digits to compare.
                assert np.abs(found).max() <= rounding, f"{path} has a gradient"
            else:
                assert_close(found, np.asarray(expected), MODEL, path, self.relative)


def run_both(
    arch: str,
    task: str | None,
    fields: Mapping[str, Any],
    inputs: Mapping[str, Any],
    labels: Mapping[str, Any],
    torch_inputs: Mapping[str, Any] | None = None,  # those that torch spells in another way
) -> Pair:
    config = REGISTRY[arch].config_class(**fields)
    reference = torch_model(arch, task, fields)
    module, flat = build(config, task, {"input_ids": _token_ids(inputs)})
    arrays = named(reference, arch)
    matched = paired(arrays, arch, task, flat)
    params = to_jbert(arrays, matched, flat)

    want = {"output_hidden_states": True, "output_attentions": True}
    given = tensors({**inputs, **labels, **(torch_inputs or {})})
    if fields.get("is_decoder"):
        given["use_cache"] = False
    expected = reference(**given, **want)
    expected_loss = expected["loss"] if task else _stand_in(expected, torch.from_numpy)
    expected_loss.backward()

    def run(params):
        output = module.apply({"params": params}, **inputs, **want)
        if task is None:
            return _stand_in(output, jnp.asarray), output
        padding = {"attention_mask": inputs["attention_mask"]} if _reads_mask(task, inputs) else {}
        return losses.loss(task, config, output, {**labels, **padding}), output

    # Not under jit: dispatching these operations one by one, most of them compiled for an earlier
    # model, takes half the time of compiling a hundred lines of HLO for one use.
    (loss, output), grads = jax.value_and_grad(run, has_aux=True)(params)
    used = {n for n, p in reference.named_parameters(remove_duplicate=False) if p.grad is not None}
    used = {n.replace("electra.", f"{arch}.", 1) for n in used}
    return Pair(
        arch, task, config, arrays, matched, flatten_dict(params, sep="/"), expected,
        expected_loss, flatten_dict(to_jbert(gradients(reference, arch), matched, flat), sep="/"),
        output, loss, flatten_dict(grads, sep="/"),
        {path for path, (_, name) in matched.sources.items() if name in used},
    )  # fmt: skip


def _token_ids(inputs: Mapping[str, Any]) -> np.ndarray:
    if "input_ids" in inputs:
        return inputs["input_ids"]
    return np.zeros(inputs["inputs_embeds"].shape[:-1], np.int32)


def _reads_mask(task: str, inputs: Mapping[str, Any]) -> bool:
    return task == "replaced_token_detection" and "attention_mask" in inputs


def _stand_in(output: Any, array: Any) -> Any:
    """A loss for models without one, on which every output has an influence of its own."""
    rng = np.random.default_rng(7)
    total = 0.0
    for name in ("last_hidden_state", "pooler_output"):
        if name in output.keys():
            weights = rng.standard_normal(tuple(output[name].shape)).astype(np.float32)
            total = total + (output[name] * array(weights)).mean()
    return total
