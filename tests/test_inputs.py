"""What a model refuses to be called with, and what it does with ids it cannot check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jbert.execution import Execution
from jbert.inputs import InputError
from jbert.models import model_class
from jbert.models.bert import init_cache

VOCAB, POSITIONS, TYPES, LENGTH = tiny.VOCAB, 32, 2, tiny.LENGTH
IDS = np.ones((3, LENGTH), np.int32)
STATES = np.ones((3, 5, 32), np.float32)


def with_bad(value, where=(1, 2), dtype=np.int32):
    ids = np.ones((3, LENGTH), dtype)
    ids[where] = value
    return ids


def refuse(arch, arguments, told, task=None, **changes):
    cfg = tiny.config(arch, task, **changes)
    module = model_class(cfg, task)(cfg)
    # No parameters: every refusal comes before the first of them is read.
    with pytest.raises(InputError) as caught:
        module.apply({"params": {}}, **arguments)
    for part in told:
        assert part in str(caught.value)


REFUSED = {
    "id beyond the vocabulary": (
        {"input_ids": with_bad(VOCAB)}, ["input_ids[1, 2] is 99", "0 <= id < 99", "tokenizer"]),
    "negative id": ({"input_ids": with_bad(-1)}, ["input_ids[1, 2] is -1", "0 <= id < 99"]),
    "id beyond 32 bits": (
        {"input_ids": with_bad(2**40 + 1, dtype=np.int64)}, [f"input_ids[1, 2] is {2**40 + 1}"]),
    "id in a list": ({"input_ids": [[1, 2, VOCAB]]}, ["input_ids[0, 2] is 99"]),
    "device array": ({"input_ids": jnp.asarray(with_bad(VOCAB))}, ["input_ids[1, 2] is 99"]),
    "float ids": ({"input_ids": IDS * 1.0}, ["input_ids", "float64", "expected integers"]),
    "boolean ids": ({"input_ids": IDS == 1}, ["input_ids", "bool", "expected integers"]),
    "ids of one text": ({"input_ids": IDS[0]}, ["(11,)", "expected (batch, length)"]),
    "ids of rank 3": ({"input_ids": IDS[None]}, ["(1, 3, 11)", "expected (batch, length)"]),
    "no tokens": ({"input_ids": IDS[:, :0]}, ["(3, 0)", "at least one token"]),
    "no input": ({}, ["neither", "input_ids or inputs_embeds"]),
    "two inputs": (
        {"input_ids": IDS, "inputs_embeds": np.ones((3, LENGTH, 32), np.float32)},
        ["both", "input_ids or inputs_embeds"]),
    "embeddings of rank 2": (
        {"inputs_embeds": np.ones((3, LENGTH), np.float32)}, ["(3, 11)", "(batch, length, "]),
    "embeddings of another width": (
        {"inputs_embeds": np.ones((3, LENGTH, 7), np.float32)}, ["(3, 11, 7)", "length, "]),
    "too long": ({"input_ids": np.ones((1, 33), np.int32)}, ["33 positions", "32", "Truncate"]),
    "position beyond the table": (
        {"input_ids": IDS, "position_ids": with_bad(POSITIONS)},
        ["position_ids[1, 2] is 32", "0 <= id < 32", "max_length"]),
    "negative position": (
        {"input_ids": IDS, "position_ids": with_bad(-1)}, ["position_ids[1, 2] is -1"]),
    "positions of another shape": (
        {"input_ids": IDS, "position_ids": IDS[:2]}, ["position_ids", "(2, 11)", "(3, 11)"]),
    "packed sequence too long": (
        {"input_ids": np.ones((1, 40), np.int32), "segment_ids": np.arange(40)[None] // 33 + 1},
        ["33 positions", "32"]),
    "negative segment": (
        {"input_ids": IDS, "segment_ids": with_bad(-1)}, ["segment_ids[1, 2] is -1"]),
    "segments of another shape": (
        {"input_ids": IDS, "segment_ids": IDS[:, :4]}, ["segment_ids", "(3, 4)", "(3, 11)"]),
    "mask of another shape": (
        {"input_ids": IDS, "attention_mask": IDS[:, :4]},
        ["attention_mask", "(3, 4)", "(3, 11)", "(3, 11, 11)"]),
    "mask of one text": (
        {"input_ids": IDS, "attention_mask": IDS[0]}, ["attention_mask", "(11,)", "(3, 11)"]),
    "mask of transformers' four dimensions": (
        {"input_ids": IDS, "attention_mask": IDS[:, None, None]}, ["(3, 1, 1, 11)", "(3, 11)"]),
    "head mask of another shape": (
        {"input_ids": IDS, "head_mask": np.ones(5)}, ["head_mask", "(5,)", ",) or (2, "]),
    "head mask of another depth": (
        {"input_ids": IDS, "head_mask": np.ones((3, 4))}, ["head_mask", "(3, 4)", ",) or (2, "]),
    "encoder states without cross-attention": (
        {"input_ids": IDS, "encoder_hidden_states": STATES},
        ["cross-attention", "add_cross_attention=True"]),
    "encoder mask without its states": (
        {"input_ids": IDS, "encoder_attention_mask": IDS}, ["without encoder_hidden_states"]),
}  # fmt: skip


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
@pytest.mark.parametrize("what", REFUSED)
def test_bad_call_is_refused_and_explained(arch, what):
    refuse(arch, *REFUSED[what])


@pytest.mark.parametrize("arch", ["bert", "mobilebert", "convbert"])
def test_token_types_out_of_range_are_refused(arch):
    for bad in (TYPES, -1):
        given = {"input_ids": IDS, "token_type_ids": with_bad(bad)}
        refuse(arch, given, [f"token_type_ids[1, 2] is {bad}", "0 <= id < 2"])
    refuse(arch, {"input_ids": IDS, "token_type_ids": IDS[:2]}, ["token_type_ids", "(2, 11)"])


def test_token_types_for_distilbert_are_refused():
    given = {"input_ids": IDS, "token_type_ids": np.zeros_like(IDS)}
    refuse("distilbert", given, ["distilbert has no token types", "leave token_type_ids out"])


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_cache_for_an_encoder_is_refused(arch):
    cache = init_cache(tiny.config("bert", "causal_lm"), 3, 16)
    refuse(arch, {"input_ids": IDS, "cache": cache}, ["cache is for decoders", "causal_lm"])


DECODER_REFUSED = {
    "cache of another batch": ({"input_ids": IDS[:1]}, 16, ["batch of 3", "1 rows"]),
    "cache too short": ({"input_ids": IDS}, 10, ["10 slots and 0 are used", "11 more tokens"]),
    "segments with a cache": ({"input_ids": IDS, "segment_ids": IDS}, 16, ["segment_ids"]),
    "mask that fits neither call nor cache": (
        {"input_ids": IDS, "attention_mask": np.ones((3, 12))}, 16, ["(3, 12)", "(3, 11)"]),
}  # fmt: skip


@pytest.mark.parametrize("what", DECODER_REFUSED)
def test_bad_call_of_a_decoder_is_refused(what):
    arguments, slots, told = DECODER_REFUSED[what]
    cache = init_cache(tiny.config("bert", "causal_lm"), 3, slots)
    refuse("bert", {**arguments, "cache": cache}, told, task="causal_lm")


@pytest.mark.parametrize("shape", [(3, 5, 30), (1, 5, 32), (5, 32), (3, 0, 32)])
def test_encoder_states_of_another_shape_are_refused(shape):
    given = {"input_ids": IDS, "encoder_hidden_states": np.ones(shape, np.float32)}
    told = [f"encoder_hidden_states has shape {shape}", "(3, encoder length, 32)"]
    refuse("bert", given, told, task="causal_lm", add_cross_attention=True)


def test_encoder_mask_of_another_shape_is_refused():
    given = {"input_ids": IDS, "encoder_hidden_states": STATES, "encoder_attention_mask": IDS}
    told = ["encoder_attention_mask", "(3, 11)", "(3, 5)"]
    refuse("bert", given, told, task="causal_lm", add_cross_attention=True)


def test_relative_positions_limit_the_length_whatever_the_positions():
    long = np.ones((1, 33), np.int32)
    given = {"input_ids": long, "position_ids": np.zeros_like(long)}
    refuse("bert", given, ["33 positions"], position_embedding_type="relative_key")


def test_causal_lm_needs_a_decoder():
    cfg = tiny.config("bert")
    with pytest.raises(ValueError, match="needs is_decoder=True"):
        model_class(cfg, "causal_lm")(cfg).init(jax.random.key(0), IDS)


@pytest.mark.parametrize("length", [0, 33])
def test_cache_of_impossible_length_is_refused(length):
    with pytest.raises(ValueError, match=f"max_length is {length}; expected 1 to max_position"):
        init_cache(tiny.config("bert", "causal_lm"), 3, length)
    with pytest.raises(ValueError, match="is_decoder=False"):
        init_cache(tiny.config("bert"), 3, 8)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_multiple_choice_needs_a_dimension_of_choices(arch):
    cfg = tiny.config(arch)
    module = model_class(cfg, "multiple_choice")(cfg)
    with pytest.raises(ValueError, match=r"\(3, 11\).*\(batch, choices, length\)"):
        module.apply({"params": {}}, input_ids=IDS)
    with pytest.raises(ValueError, match=r"\(3, 11, 7\).*\(batch, choices, length, features\)"):
        module.apply({"params": {}}, inputs_embeds=np.ones((3, 11, 7)))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(6, 4\)"):
        module.apply({"params": {}}, np.stack([IDS, IDS], 1), np.ones((3, 2, 4)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; expected one of"),
        ({"param_dtype": "int32"}, "param_dtype is 'int32'"),
        ({"dtype": "fast"}, "dtype is 'fast'"),
        ({"remat": "some"}, "remat is 'some'; expected one of .*'dots'"),
        ({"attention": "flash"}, "attention is 'flash'; expected one of .*'splash'"),
        ({"scan_layers": "yes"}, "scan_layers is 'yes'; expected True or False"),
    ],
)
def test_option_that_does_not_exist_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Execution(**options)


@pytest.mark.parametrize("which", ["dtype", "param_dtype"])
def test_mobilebert_refuses_float16(which):
    cfg = tiny.config("mobilebert")
    module = model_class(cfg, None)(cfg, Execution(**{which: "float16"}))
    with pytest.raises(ValueError, match="MobileBERT cannot run in float16.*bfloat16"):
        module.apply({"params": {}}, IDS)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_traced_id_out_of_range_gives_nan_in_its_row_alone(arch):
    module, params = tiny.model(arch)
    good = {
        "input_ids": tiny.batch(arch)["input_ids"],
        "position_ids": np.tile(np.arange(LENGTH, dtype=np.int32), (3, 1)),
    }
    limits = {"input_ids": VOCAB, "position_ids": POSITIONS}
    if arch != "distilbert":
        good["token_type_ids"] = np.zeros_like(IDS)
        limits["token_type_ids"] = TYPES
    run = jax.jit(lambda inputs: module.apply({"params": params}, **inputs))
    expected = run(good).last_hidden_state
    for name, size in limits.items():
        for bad in (size, size + 3, -1, -size, -size - 1, 2**31 - 1):
            ids = good[name].copy()
            ids[1, 2] = bad
            found = run({**good, name: ids}).last_hidden_state
            assert np.isnan(found[1]).all(), f"{name} {bad}"
            np.testing.assert_array_equal(found[::2], expected[::2])
