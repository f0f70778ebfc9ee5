"""Writes what transformers 4 computes and 5 no longer can: relative positions and head masks.

    python tests/golden/make_golden.py    # with transformers 4.57.6 and torch installed

No weights are stored: every parameter is filled from its Hugging Face name by `values`, here and in
the test that reads the files.
"""

import json
import zlib
from pathlib import Path

import numpy as np

# torch and transformers are imported where they are used: the test has neither, and imports
# `values` and `cotangent` from here.

HERE = Path(__file__).parent
LENGTH = 7
SIZES = {"vocab_size": 31, "max_position_embeddings": 9}
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 20, **SIZES}  # fmt: skip
FIELDS = {
    "bert": WIDTHS,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 20, **SIZES},
    "mobilebert": {**WIDTHS, "embedding_size": 8, "intra_bottleneck_size": 8,
                   "num_feedforward_networks": 2},
    # A head_ratio of 1 leaves as many heads to attention as the masks below have.
    "convbert": {**WIDTHS, "embedding_size": 8, "num_groups": 2, "conv_kernel_size": 3,
                 "head_ratio": 1},
}  # fmt: skip
# Heads that a mask silences, halves and exaggerates: one for all layers, and one for each.
HEAD_MASKS = {
    "by_head": np.array([0.0, 1.0, 0.5, 2.0], np.float32),
    "by_layer": np.array([[1.0, 0.0, 1.0, 0.25], [0.0, 1.5, 0.0, 1.0]], np.float32),
}
# Whose gradients are kept, of each layer.
WITH_GRADIENT = ("distance_embedding.weight", "attention.self.query.weight",
                 "attention.self.key.weight")  # fmt: skip


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's values, from nothing but its name and shape."""
    seed = zlib.crc32(name.encode())
    drawn = np.random.default_rng(seed).standard_normal(shape) * 0.3
    return (drawn + ("LayerNorm.weight" in name or "layer_norm.weight" in name)).astype(np.float32)


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """What an output is multiplied with, to make a loss of it."""
    return values("cotangent", shape)


def batch(rows: int) -> dict[str, np.ndarray]:
    """Ragged rows with two segments, padded on the right."""
    rng = np.random.default_rng(0)
    lengths = np.array([LENGTH, 4])[:rows, None]
    mask = (np.arange(LENGTH) < lengths).astype(np.int32)
    ids = rng.integers(1, SIZES["vocab_size"], (rows, LENGTH)).astype(np.int32) * mask
    segments = (np.arange(LENGTH) >= lengths // 2).astype(np.int32) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def build(arch: str, head: str, **changes):
    """A filled model in inference mode, and the fields it was made with."""
    import torch
    import transformers

    name = {"bert": "Bert", "distilbert": "DistilBert", "mobilebert": "MobileBert",
            "convbert": "ConvBert"}[arch]  # fmt: skip
    fields = {**FIELDS[arch], **changes}
    config = getattr(transformers, f"{name}Config")(**fields, attn_implementation="eager")
    model = getattr(transformers, name + head)(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            drawn = values(parameter_name, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    return model, {"model_type": arch, **fields}


def tensors(arrays):
    import torch

    return {
        name: torch.from_numpy(a) if a.dtype == np.float32 else torch.from_numpy(a).long()
        for name, a in arrays.items()
    }


def call(model, inputs, **more):
    """The model's outputs as named arrays, every hidden state and attention map included."""
    output = model(**tensors(inputs), output_hidden_states=True, output_attentions=True, **more)
    found = {}
    for name, value in output.items():
        if name == "past_key_values":
            continue
        for i, part in enumerate(value if isinstance(value, tuple) else [value]):
            found[f"{name}.{i}" if isinstance(value, tuple) else name] = part
    return output, found


def numpy(found):
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def write(name: str, config, cases) -> None:
    """One file: the configuration, and for each case its inputs and outputs."""
    import torch
    import transformers

    origin = {"transformers": transformers.__version__, "torch": torch.__version__}
    arrays = {"config": json.dumps(config), "origin": json.dumps(origin)}
    for case, (inputs, results) in cases.items():
        arrays |= {f"{case}/in/{k}": v for k, v in inputs.items()}
        arrays |= {f"{case}/out/{k}": v for k, v in results.items()}
    np.savez_compressed(HERE / f"{name}.npz", **arrays)


def encoder_states() -> dict[str, np.ndarray]:
    states = values("encoder states", (2, 5, WIDTHS["hidden_size"])) * 3
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def relative_encoder(kind: str) -> None:
    import torch

    model, config = build("bert", "Model", position_embedding_type=kind)
    inputs = batch(2)
    output, found = call(model, inputs)
    weights = torch.from_numpy(cotangent(tuple(output.last_hidden_state.shape)))
    (output.last_hidden_state * weights).sum().backward()
    gradients = {
        f"gradient.{name}": parameter.grad
        for name, parameter in model.named_parameters()
        if name.endswith(WITH_GRADIENT)
    }
    write(f"{kind}_encoder", config, {"plain": (inputs, numpy({**found, **gradients}))})


def relative_decoder(kind: str, cross: bool) -> None:
    import torch

    changes = {"position_embedding_type": kind, "is_decoder": True, "add_cross_attention": cross}
    model, config = build("bert", "LMHeadModel", **changes)
    inputs = {**batch(2), **(encoder_states() if cross else {})}
    with torch.no_grad():
        _, found = call(model, inputs, use_cache=False)
        # One token a call: with a longer one transformers 4 gives every query the distances of the
        # last, so that what is cached and what is not disagree.
        steps, cache = [], None
        whole = {**batch(2), "attention_mask": np.ones((2, LENGTH), np.int32)}
        fixed = encoder_states() if cross else {}
        for t in range(LENGTH):
            now = {"input_ids": whole["input_ids"][:, t : t + 1],
                   "token_type_ids": whole["token_type_ids"][:, t : t + 1],
                   "attention_mask": whole["attention_mask"][:, : t + 1], **fixed}  # fmt: skip
            output = model(**tensors(now), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    cached = {**whole, **fixed}
    cases = {
        "plain": (inputs, numpy(found)),
        "cached": (cached, numpy({"logits": torch.cat(steps, dim=1)})),
    }
    write(f"{kind}_{'cross_attention' if cross else 'decoder'}", config, cases)


def head_masks(arch: str, name: str, head: str = "Model", **changes) -> None:
    import torch

    model, config = build(arch, head, **changes)
    inputs = batch(2)
    if arch == "distilbert":
        del inputs["token_type_ids"]
    if changes:
        inputs |= encoder_states()
    more = {"use_cache": False} if changes else {}
    cases = {}
    with torch.no_grad():
        for case, mask in HEAD_MASKS.items():
            given = {**inputs, "head_mask": mask}
            cases[case] = (given, numpy(call(model, given, **more)[1]))
    write(f"head_mask_{name}", config, cases)


def main() -> None:
    for kind in ("relative_key", "relative_key_query"):
        relative_encoder(kind)
        relative_decoder(kind, cross=False)
        relative_decoder(kind, cross=True)
    for arch in FIELDS:
        head_masks(arch, arch)
    cross = {"is_decoder": True, "add_cross_attention": True}
    head_masks("bert", "cross_attention", "LMHeadModel", **cross)


if __name__ == "__main__":
    main()
