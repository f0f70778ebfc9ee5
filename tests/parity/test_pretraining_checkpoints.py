"""What a pretraining run saves in its course goes through `jbert.export` into transformers."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
import variants
from pretrain_runs import config, one_device  # noqa: F401
from published import run, same_outputs

import jbert
from jbert.training.pretrain import GeneratorConfig, pretrain

pytestmark = pytest.mark.parity

CLASSES = [
    ("bert", "pretraining", "BertForPreTraining"),
    ("distilbert", "masked_lm", "DistilBertForMaskedLM"),
    ("mobilebert", "pretraining", "MobileBertForPreTraining"),
    ("convbert", "masked_lm", "ConvBertForMaskedLM"),
]


def read(kind: str, directory: Path):
    model, report = getattr(transformers, kind).from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize(("arch", "task", "kind"), CLASSES)
def test_a_checkpoint_becomes_transformers_own_class(arch, task, kind, tmp_path):
    pretrain(config(tmp_path, arch, task=task, steps=2))
    bert = jbert.load(tmp_path / "run" / "checkpoints")
    jbert.export(bert, tmp_path / "exported")
    theirs = read(kind, tmp_path / "exported")
    inputs = variants.batch(arch, task, bert.config)
    same_outputs(bert(**inputs), run(theirs, inputs), arch)
    # And text becomes the same tokens.
    text = "the sea was calm and warm ."
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")(text)["input_ids"]
    assert tokens == bert.tokenizer([text])["input_ids"][0].tolist()


def test_a_discriminator_is_electras_and_its_generator_a_masked_language_model(tmp_path):
    """BERT with embeddings as wide as its layers is what ELECTRA's discriminator is."""
    half = GeneratorConfig(width=0.5)
    pretrain(config(tmp_path, task="replaced_token_detection", steps=2, generator=half))
    bert = jbert.load(tmp_path / "run" / "checkpoints")
    inputs = variants.batch("bert", None, bert.config)
    jbert.export(bert, tmp_path / "exported")
    fields = {name: getattr(bert.config, name) for name in (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "hidden_act", "layer_norm_eps",
    )}  # fmt: skip
    settings = transformers.ElectraConfig(embedding_size=bert.config.hidden_size, **fields)
    electra = transformers.ElectraForPreTraining(settings).eval()
    weights = safetensors.torch.load_file(tmp_path / "exported" / "model.safetensors")
    names = {name.replace("bert.", "electra.", 1): value for name, value in weights.items()}
    found = electra.load_state_dict(names, strict=False)
    assert not found.unexpected_keys
    assert all("position_ids" in name or "token_type_ids" in name for name in found.missing_keys)
    with torch.no_grad():
        theirs = electra(**{name: torch.tensor(value) for name, value in inputs.items()}).logits
    np.testing.assert_allclose(bert(**inputs).logits, theirs, atol=1e-5)
    generator = jbert.load(tmp_path / "run" / "generator")
    jbert.export(generator, tmp_path / "generator")
    inputs = variants.batch("bert", "masked_lm", generator.config)
    theirs = read("BertForMaskedLM", tmp_path / "generator")
    same_outputs(generator(**inputs), run(theirs, inputs), "bert")
