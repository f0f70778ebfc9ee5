"""Configurations: documented names and defaults, config.json in and out, what is refused."""

import dataclasses
import json
import math

import pytest
import tiny

from jbert.config import ConfigError
from jbert.models import REGISTRY, config_from_dict, model_class, presets
from jbert.models.bert import BertConfig
from jbert.models.convbert import ConvBertConfig
from jbert.models.distilbert import DistilBertConfig
from jbert.models.mobilebert import MobileBertConfig

# Written out from the reference documents of the four architectures, not read from the code.
_BERT = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    "classifier_dropout": None,
}  # fmt: skip
DOCUMENTED = {
    "bert": {**_BERT, "position_embedding_type": "absolute", "use_cache": True,
             "is_decoder": False, "add_cross_attention": False},
    "distilbert": {
        "vocab_size": 30522, "max_position_embeddings": 512, "sinusoidal_pos_embds": False,
        "n_layers": 6, "n_heads": 12, "dim": 768, "hidden_dim": 3072, "dropout": 0.1,
        "attention_dropout": 0.1, "activation": "gelu", "initializer_range": 0.02,
        "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "pad_token_id": 0,
    },
    "mobilebert": {
        **_BERT, "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 4,
        "intermediate_size": 512, "hidden_act": "relu", "hidden_dropout_prob": 0.0,
        "embedding_size": 128, "trigram_input": True, "use_bottleneck": True,
        "intra_bottleneck_size": 128, "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": True, "num_feedforward_networks": 4,
        "normalization_type": "no_norm", "classifier_activation": True,
    },
    "convbert": {
        **_BERT, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "embedding_size": 768,
        "head_ratio": 2, "conv_kernel_size": 9, "num_groups": 1,
        # Read by the multiple-choice head, from transformers' PretrainedConfig.
        "summary_type": "last", "summary_use_proj": False, "summary_proj_to_labels": False,
        "summary_activation": None, "summary_first_dropout": 0.0, "summary_last_dropout": 0.0,
    },
}  # fmt: skip
SHARED = {
    "num_labels": 2, "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": None, "tie_word_embeddings": True,
    "output_hidden_states": False, "output_attentions": False,
}  # fmt: skip


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_fields_and_defaults_are_the_documented_ones(arch):
    config = REGISTRY[arch].config_class()
    found = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    assert found.pop("extra") == {}
    assert found == {**DOCUMENTED[arch], **SHARED}


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_config_is_frozen_and_hashable(arch):
    config = tiny.config(arch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vocab_size = 3
    assert hash(config) == hash(tiny.config(arch))


def test_distilbert_answers_to_the_names_of_the_others():
    config = DistilBertConfig(dim=24, n_heads=3, n_layers=5, hidden_dim=7, activation="relu")
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (24, 3, 5)
    assert (config.intermediate_size, config.hidden_act, config.head_dim) == (7, "relu", 8)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_unknown_keys_survive_a_round_trip(arch, tmp_path):
    written = {
        "model_type": arch, "transformers_version": "4.2.0", "architectures": ["Whatever"],
        "extra": {"not": "ours"}, "attn_implementation": None, **tiny.FIELDS[arch],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = REGISTRY[arch].config_class.from_json(tmp_path)
    config.to_json(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert {key: again[key] for key in written} == written
    assert REGISTRY[arch].config_class.from_json(tmp_path / "again.json") == config


@pytest.mark.parametrize("name", presets())
def test_presets_survive_a_round_trip(name):
    config = presets()[name].config
    assert config_from_dict(json.loads(config.to_json())) == config


def test_aliases_are_read():
    values = {"model_type": "distilbert", "hidden_size": 24, "num_attention_heads": 3,
              "num_hidden_layers": 1}  # fmt: skip
    config = DistilBertConfig.from_dict(values)
    assert (config.dim, config.n_heads, config.n_layers) == (24, 3, 1)
    assert config.extra == {}


def test_function_as_activation_works_but_cannot_be_saved():
    config = BertConfig(hidden_act=math.tanh)
    with pytest.raises(ConfigError, match="hidden_act is the function"):
        config.to_json()


# -- labels -----------------------------------------------------------------------------------


def test_labels_follow_num_labels():
    config = BertConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_num_labels_follows_names():
    config = BertConfig(id2label={0: "no", 1: "yes", 2: "maybe"})
    assert config.num_labels == 3
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}


def test_label_names_from_json_have_integer_ids_and_overrule_a_stale_count():
    values = {"model_type": "bert", "num_labels": 2, "id2label": {"0": "a", "1": "b", "2": "c"}}
    config = BertConfig.from_dict(values)
    assert (config.num_labels, config.id2label) == (3, {0: "a", 1: "b", 2: "c"})
    assert json.loads(config.to_json())["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_replace_renews_labels_in_both_directions():
    named = BertConfig(id2label={0: "no", 1: "yes", 2: "maybe"})
    assert named.replace(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    renamed = named.replace(id2label={0: "a"})
    assert (renamed.num_labels, renamed.label2id) == (1, {"a": 0})
    assert named.replace(hidden_dropout_prob=0.0).id2label == named.id2label


def test_replace_refuses_an_unknown_field_with_a_suggestion():
    with pytest.raises(ConfigError, match="no field 'hiden_size'; did you mean 'hidden_size'"):
        BertConfig().replace(hiden_size=3)


# -- validation -------------------------------------------------------------------------------

INVALID = [
    (BertConfig, {"hidden_size": 30, "num_attention_heads": 4},
     ["hidden_size is 30", "num_attention_heads=4"]),
    (BertConfig, {"num_attention_heads": 0}, ["num_attention_heads is 0", "at least 1"]),
    (BertConfig, {"num_hidden_layers": -1}, ["num_hidden_layers is -1", "at least 1"]),
    (BertConfig, {"hidden_size": "768"}, ["hidden_size is '768'", "integer"]),
    (BertConfig, {"hidden_size": 768.0}, ["hidden_size is 768.0", "integer"]),
    (BertConfig, {"hidden_size": True}, ["hidden_size is True", "integer"]),
    (BertConfig, {"hidden_act": "zelu"}, ["hidden_act is 'zelu'", "'gelu'"]),
    (BertConfig, {"hidden_act": ["gelu"]}, ["hidden_act is ['gelu']", "'gelu'"]),
    (BertConfig, {"hidden_act": None}, ["hidden_act is None", "'gelu'"]),
    (BertConfig, {"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob is 1.5", "[0, 1)"]),
    (BertConfig, {"hidden_dropout_prob": math.nan}, ["hidden_dropout_prob is nan", "[0, 1)"]),
    (BertConfig, {"classifier_dropout": "0.1"}, ["classifier_dropout is '0.1'", "[0, 1)"]),
    (BertConfig, {"pad_token_id": 30522}, ["pad_token_id is 30522", "vocab_size=30522"]),
    (BertConfig, {"pad_token_id": -1}, ["pad_token_id is -1", "vocab_size=30522"]),
    (BertConfig, {"initializer_range": -0.1}, ["initializer_range is -0.1", "not negative"]),
    (BertConfig, {"layer_norm_eps": "1e-12"}, ["layer_norm_eps is '1e-12'", "small number"]),
    (BertConfig, {"is_decoder": 1}, ["is_decoder is 1", "true or false"]),
    (BertConfig, {"output_hidden_states": "no"}, ["output_hidden_states is 'no'", "true"]),
    (BertConfig, {"output_attentions": "no"}, ["output_attentions is 'no'", "true or false"]),
    (BertConfig, {"tie_word_embeddings": None}, ["tie_word_embeddings is None", "true or"]),
    (BertConfig, {"position_embedding_type": "rope"}, ["is 'rope'", "relative_key_query"]),
    (BertConfig, {"add_cross_attention": True}, ["add_cross_attention is true", "is_decoder"]),
    (BertConfig, {"num_labels": 0}, ["num_labels is 0", "at least 1"]),
    (BertConfig, {"num_labels": 2, "id2label": {0: "a", 1: "b", 2: "c"}},
     ["id2label has the ids [0, 1, 2]", "num_labels is 2"]),
    (BertConfig, {"id2label": {0: "a", 5: "b"}}, ["id2label has the ids [0, 5]", "0..1"]),
    (BertConfig, {"problem_type": "ranking"}, ["problem_type is 'ranking'", "regression"]),
    (BertConfig, {"problem_type": "single_label_classification", "num_labels": 1},
     ["'single_label_classification' and num_labels 1", "2 labels or more"]),
    (DistilBertConfig, {"dim": 10, "n_heads": 4}, ["dim is 10", "n_heads=4"]),
    (DistilBertConfig, {"activation": "zelu"}, ["activation is 'zelu'", "'relu'"]),
    (MobileBertConfig, {"normalization_type": "rms"}, ["normalization_type is 'rms'", "no_norm"]),
    (MobileBertConfig, {"intra_bottleneck_size": 30},
     ["intra_bottleneck_size is 30", "num_attention_heads=4"]),
    (MobileBertConfig, {"use_bottleneck": False, "hidden_size": 510},
     ["hidden_size is 510", "num_attention_heads=4"]),
    (MobileBertConfig, {"embedding_size": 513}, ["embedding_size is 513", "hidden_size=512"]),
    (MobileBertConfig, {"num_feedforward_networks": 0}, ["num_feedforward_networks is 0"]),
    (ConvBertConfig, {"conv_kernel_size": 8}, ["conv_kernel_size is 8", "odd"]),
    (ConvBertConfig, {"num_groups": 5}, ["hidden_size is 768", "num_groups=5"]),
    (ConvBertConfig, {"hidden_size": 12, "head_ratio": 1},
     ["hidden_size is 12", "12 heads each", "head_ratio=1"]),
    (ConvBertConfig, {"head_ratio": 0}, ["head_ratio is 0", "at least 1"]),
    (ConvBertConfig, {"summary_type": "attn"}, ["summary_type is 'attn'", "cls_index"]),
    (ConvBertConfig, {"summary_activation": "zelu"}, ["summary_activation is 'zelu'", "null"]),
]  # fmt: skip


@pytest.mark.parametrize(("config_class", "fields", "told"), INVALID, ids=lambda x: str(x)[:50])
def test_invalid_field_is_named_with_its_value_and_what_is_allowed(config_class, fields, told):
    with pytest.raises(ConfigError) as caught:
        config_class(**fields)
    for part in (config_class.__name__, *told):
        assert part in str(caught.value)


def test_all_invalid_fields_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        BertConfig(vocab_size=0, hidden_act="zelu", hidden_dropout_prob=2, num_labels=-1)
    message = str(caught.value)
    for name in ("vocab_size", "hidden_act", "hidden_dropout_prob", "num_labels"):
        assert f"  - {name} is" in message


UNSUPPORTED = [
    ("distilbert", "is_decoder", True),
    ("mobilebert", "add_cross_attention", True),
    ("convbert", "position_embedding_type", "relative_key"),
    ("bert", "pruned_heads", {"0": [1]}),
    ("bert", "quantization_config", {"bits": 4}),
    ("bert", "is_encoder_decoder", True),
]


@pytest.mark.parametrize(("arch", "key", "value"), UNSUPPORTED)
def test_a_key_that_would_change_the_model_and_is_not_implemented_is_refused(arch, key, value):
    with pytest.raises(ConfigError, match=f"{key} is .*not implemented for {arch}"):
        config_from_dict({"model_type": arch, key: value})


def test_the_same_keys_are_fine_while_they_are_off():
    off = {"is_decoder": False, "pruned_heads": {}, "position_embedding_type": "absolute"}
    assert config_from_dict({"model_type": "convbert", **off}).extra == off


# -- files ------------------------------------------------------------------------------------


def test_config_of_another_family_is_refused(tmp_path):
    path = tmp_path / "config.json"
    DistilBertConfig().to_json(path)
    with pytest.raises(ConfigError, match="'distilbert', but BertConfig reads 'bert'"):
        BertConfig.from_json(path)


def test_unknown_model_type_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'mobile-bert' \(did you mean 'mobilebert'\?\)"):
        config_from_dict({"model_type": "mobile-bert"})
    with pytest.raises(ConfigError, match="'t5'.*families.*'bert'.*'mobilebert'"):
        config_from_dict({"model_type": "t5"})


def test_missing_model_type_is_refused():
    with pytest.raises(ConfigError, match="no model_type.*'distilbert'"):
        config_from_dict({"hidden_size": 3})


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "expected JSON text"), (b"{'a': 1}", "expected JSON text"),
     (b"[1]", "found a list"), (b'{"a": "\xe9"}', "expected JSON text"), (b"3", "found a int")],
)  # fmt: skip
def test_file_that_is_no_config_is_refused_by_name(content, told, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_json(tmp_path)
    assert str(path) in str(caught.value) and told in str(caught.value)


def test_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json: expected a config.json, found no"):
        BertConfig.from_json(tmp_path)


@pytest.mark.parametrize("labels", [["a", "b"], {"x": "a"}])
def test_label_names_of_the_wrong_kind_are_refused(labels):
    with pytest.raises(ConfigError, match="id2label"):
        BertConfig.from_dict({"id2label": labels})


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_unknown_task_is_refused_with_a_suggestion_and_the_tasks(arch):
    config = tiny.config(arch)
    with pytest.raises(ValueError, match=r"'mask_lm' \(did you mean 'masked_lm'\?\)") as caught:
        model_class(config, "mask_lm")
    assert "question_answering" in str(caught.value)


def test_tasks_are_those_of_the_table():
    everywhere = {
        None, "masked_lm", "sequence_classification", "multiple_choice", "token_classification",
        "question_answering", "replaced_token_detection",
    }  # fmt: skip
    pair = {"pretraining", "next_sentence"}
    assert set(REGISTRY["bert"].tasks) == everywhere | pair | {"causal_lm"}
    assert set(REGISTRY["mobilebert"].tasks) == everywhere | pair
    assert set(REGISTRY["distilbert"].tasks) == everywhere
    assert set(REGISTRY["convbert"].tasks) == everywhere
