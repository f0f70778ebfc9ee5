"""Each pipeline beside transformers' own, from one directory of random weights."""

import oracle
import pipeline_models
import pytest
import tiny
import torch
import transformers

import jbert

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning"),
]

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    "The lighthouse keeper wrote every evening in a small grey notebook.",
    "Unhappily, running WATER isn't baked!",
    "a",
    "three ships went by: the Albatross, the Nightingale",
]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """(arch, task, pipeline, config) -> transformers' pipeline and jbert's."""

    def make(arch, task, name, options=None, length=64, **changes):
        directory = tmp_path_factory.mktemp("model")
        fields = {**tiny.FIELDS[arch], "vocab_size": len(pipeline_models.tokenizer()),
                  "max_position_embeddings": length, "pad_token_id": 0, **changes}  # fmt: skip
        oracle.torch_model(arch, task, fields).save_pretrained(directory)
        tokenizer = jbert.Tokenizer(
            pipeline_models.tokenizer().backend, pipeline_models.tokenizer().options
        )
        tokenizer.model_max_length = length
        tokenizer.save(directory)
        # With token types for every architecture transformers' tokenizer would break DistilBERT.
        theirs = transformers.pipeline(name, model=str(directory), **(options or {}))
        if arch == "distilbert":
            theirs.tokenizer.model_input_names = ["input_ids", "attention_mask"]
        return theirs, jbert.pipeline(name, directory, **(options or {}))

    return make


def agree(found, expected, tolerance=1e-4):
    if isinstance(expected, torch.Tensor):
        oracle.assert_close(found, expected, tolerance, "the features", relative=True)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            agree(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected), (found, expected)
        for one, other in zip(found, expected, strict=True):
            agree(one, other, tolerance)
    elif isinstance(expected, str) or not hasattr(expected, "__float__"):
        assert found == expected
    else:
        assert abs(float(found) - float(expected)) <= tolerance, (found, expected)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_fill_mask(pipes, arch):
    theirs, ours = pipes(arch, "masked_lm", "fill-mask")
    texts = ["the [MASK] wrote", "[MASK] [MASK] of the [MASK].", *(t + " [MASK]" for t in TEXTS)]
    agree(ours(texts), theirs(texts))
    agree(ours(texts[0], top_k=3), theirs(texts[0], top_k=3))
    for targets in (["the", "he", "ships"], "unheard"):
        agree(ours(texts, targets=targets), theirs(texts, targets=targets))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_text_classification(pipes, arch):
    theirs, ours = pipes(arch, "sequence_classification", "text-classification", num_labels=3)
    pairs = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    for inputs in (TEXTS[0], TEXTS, pairs, pairs[0]):
        functions = [{"function_to_apply": name} for name in ("sigmoid", "softmax", "none")]
        for options in ({}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, *functions):
            agree(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize("changes", [
    {"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 3, "problem_type": "multi_label_classification"},
])  # fmt: skip
def test_kinds_of_classification(pipes, changes):
    theirs, ours = pipes("bert", "sequence_classification", "text-classification", **changes)
    agree(ours(TEXTS), theirs(TEXTS))
    agree(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_token_classification(pipes, arch):
    theirs, ours = pipes(
        arch, "token_classification", "token-classification", id2label=dict(enumerate(LABELS))
    )
    words = ["The", "keeper's", "grey", "notebook"]
    for strategy in ("none", "simple", "first", "average", "max"):
        for ignore in (["O"], [], ["PER", "B-PER", "I-PER"]):
            options = {"aggregation_strategy": strategy, "ignore_labels": ignore}
            agree(ours(TEXTS, **options), theirs(TEXTS, **options))
            agree(
                ours(words, is_split_into_words=True, **options),
                theirs(words, is_split_into_words=True, **options)[0],
            )


@pytest.mark.parametrize("stride", [0, 3, 10])
def test_token_classification_of_long_texts(pipes, stride):
    text = " ".join(TEXTS * 3)
    labels = dict(enumerate(LABELS))
    for strategy in ("simple", "first", "average", "max"):
        options = {"aggregation_strategy": strategy, "stride": stride, "ignore_labels": []}
        theirs, ours = pipes(
            "bert", "token_classification", "token-classification", options, 32, id2label=labels
        )
        agree(ours(text), theirs(text))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_feature_extraction(pipes, arch):
    theirs, ours = pipes(arch, None, "feature-extraction")
    agree(ours(TEXTS), theirs(TEXTS, return_tensors=True))


def test_text_generation(pipes):
    theirs, ours = pipes(
        "bert", "causal_lm", "text-generation", {"max_new_tokens": 8}, is_decoder=True
    )
    for options in ({}, {"return_full_text": False}, {"add_special_tokens": False}):
        agree(ours(TEXTS, **options), theirs(TEXTS, do_sample=False, **options))
    eos = ours.tokenizer.encode(ours(TEXTS[0], return_full_text=False)[0]["generated_text"])[3]
    agree(ours(TEXTS, eos_token_id=eos), theirs(TEXTS, do_sample=False, eos_token_id=eos))
