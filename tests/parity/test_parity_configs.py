"""Configurations: the same fields and defaults as transformers', and one config.json for both."""

import dataclasses
import json

import oracle
import pytest
import transformers
import variants
from transformers import PreTrainedConfig

from jbert.models import REGISTRY, config_from_dict, presets

pytestmark = pytest.mark.parity

ARCHITECTURES = tuple(variants.BASE)
# Fields of transformers 5's that jbert gives no meaning to: it keeps them, and refuses values that
# would change what is computed.
ONLY_THEIRS = {
    "bert": {"bos_token_id", "eos_token_id"},
    "distilbert": {"bos_token_id", "eos_token_id"},
    "mobilebert": set(),
    "convbert": {"is_decoder", "add_cross_attention"},
}
# What transformers 4 had as a field, and what its ConvBertSequenceSummary reads without one.
ONLY_OURS = {
    "bert": {"position_embedding_type"},
    "distilbert": set(),
    "mobilebert": set(),
    "convbert": {"summary_type", "summary_use_proj", "summary_proj_to_labels",
                 "summary_activation", "summary_first_dropout", "summary_last_dropout"},
}  # fmt: skip
# Of transformers' base class; `extra` is where jbert keeps what it gives no meaning to.
OF_ANY_MODEL = {"num_labels", "id2label", "label2id", "problem_type", "output_hidden_states",
                "output_attentions", "extra"}  # fmt: skip
# Every field at a value that is not its default.
CHANGED = {
    "bert": dict(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=6,
        intermediate_size=40, hidden_act="silu", hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3, max_position_embeddings=20, type_vocab_size=3,
        initializer_range=0.03, layer_norm_eps=1e-6, pad_token_id=7, use_cache=False,
        classifier_dropout=0.4, is_decoder=True, add_cross_attention=True,
    ),
    "distilbert": dict(
        vocab_size=50, max_position_embeddings=20, sinusoidal_pos_embds=True, n_layers=3,
        n_heads=6, dim=24, hidden_dim=40, dropout=0.2, attention_dropout=0.3, activation="relu",
        initializer_range=0.03, qa_dropout=0.4, seq_classif_dropout=0.5, pad_token_id=7,
    ),
    "mobilebert": dict(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=6,
        intermediate_size=40, hidden_act="silu", hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3, max_position_embeddings=20, type_vocab_size=3,
        initializer_range=0.03, layer_norm_eps=1e-6, pad_token_id=7, embedding_size=12,
        trigram_input=False, use_bottleneck=False, intra_bottleneck_size=18,
        use_bottleneck_attention=True, key_query_shared_bottleneck=False,
        num_feedforward_networks=3, normalization_type="layer_norm", classifier_activation=False,
        classifier_dropout=0.4,
    ),
    "convbert": dict(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=6,
        intermediate_size=40, hidden_act="silu", hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3, max_position_embeddings=20, type_vocab_size=3,
        initializer_range=0.03, layer_norm_eps=1e-6, pad_token_id=7, bos_token_id=8,
        eos_token_id=9, embedding_size=12, head_ratio=3, conv_kernel_size=5, num_groups=2,
        classifier_dropout=0.4,
    ),
}  # fmt: skip


def theirs(arch: str):
    return getattr(transformers, f"{oracle.NAMES[arch]}Config")


def names_of_ours(arch: str) -> set[str]:
    return {field.name for field in dataclasses.fields(REGISTRY[arch].config_class)} - OF_ANY_MODEL


def names_of_theirs(arch: str) -> set[str]:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {field.name for field in dataclasses.fields(theirs(arch))} - inherited


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_fields_and_defaults(arch):
    our_names, their_names = names_of_ours(arch), names_of_theirs(arch)
    assert their_names - our_names == ONLY_THEIRS[arch]
    assert our_names - their_names == ONLY_OURS[arch]
    ours, reference = REGISTRY[arch].config_class(), theirs(arch)()
    for name in (our_names & their_names) | (OF_ANY_MODEL - {"extra"}):
        assert getattr(ours, name) == getattr(reference, name), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_changed_field_is_changed(arch):
    assert set(CHANGED[arch]) == names_of_ours(arch) - ONLY_OURS[arch] - {"tie_word_embeddings"}
    default = theirs(arch)()
    assert not [k for k, value in CHANGED[arch].items() if getattr(default, k) == value]


@pytest.mark.parametrize("whole", [False, True], ids=["what_differs", "every_key"])
@pytest.mark.parametrize("labels", [
    {}, {"num_labels": 5, "problem_type": "regression"}, {"num_labels": 1},
    {"id2label": {0: "no", 1: "yes", 2: "ünknown"}, "label2id": {"no": 0, "yes": 1, "ünknown": 2}},
], ids=["two", "five", "one", "named"])  # fmt: skip
@pytest.mark.parametrize("changed", [False, True], ids=["default", "changed"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_config_json_there_and_back(tmp_path, arch, changed, labels, whole):
    fields = {**(CHANGED[arch] if changed else {}), **labels, "architectures": ["Some"],
              "somebodys_key": {"nested": [1]}, "tie_word_embeddings": not changed}  # fmt: skip
    reference = theirs(arch)(**fields)
    (tmp_path / "theirs.json").write_text(reference.to_json_string(use_diff=not whole))
    ours = REGISTRY[arch].config_class.from_json(tmp_path / "theirs.json")
    for name, value in {**(CHANGED[arch] if changed else {}), **labels}.items():
        assert getattr(ours, name) == value, name
    ours.to_json(tmp_path / "ours.json")
    again = theirs(arch).from_json_file(tmp_path / "ours.json")
    expected, found = reference.to_dict(), again.to_dict()
    added = set(found) - set(expected)
    assert added <= ONLY_OURS[arch]
    assert {key: found[key] for key in expected} == expected
    # And jbert's own file says the same to jbert.
    assert REGISTRY[arch].config_class.from_json(tmp_path / "ours.json") == ours


@pytest.mark.parametrize("name", sorted(presets()))
def test_published_configurations_are_valid_for_transformers(tmp_path, name):
    config = presets()[name].config
    reference = theirs(config.model_type).from_dict(config.to_dict())
    read_back = config_from_dict(json.loads(reference.to_json_string(use_diff=False)))
    for field in dataclasses.fields(config):
        if field.name != "extra":
            assert getattr(read_back, field.name) == getattr(config, field.name), field.name
