"""Writes what transformers' Flax classes save into `corpus/flax/`; needs transformers < 5 and flax.

    python tests/formats/make_flax.py [DIRECTORY]

One directory for each class, with random weights in every leaf, and in `outputs.npz` what the class
computes. Written with transformers 4.57.6.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import transformers

CORPUS = Path(__file__).parent / "corpus" / "flax"
SHARED = {"vocab_size": 20, "max_position_embeddings": 10}
BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 6, **SHARED}  # fmt: skip
DISTILBERT = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 6, **SHARED}
DECODER = {"is_decoder": True, "add_cross_attention": True}
# Directory: class, changes to the configuration, arguments of save_pretrained.
CASES = {
    "bert": ("FlaxBertModel", {}, {}),
    "bert_pretraining": ("FlaxBertForPreTraining", {}, {}),
    "bert_masked_lm": ("FlaxBertForMaskedLM", {"tie_word_embeddings": False}, {}),
    "bert_causal_lm": ("FlaxBertForCausalLM", DECODER, {}),
    "bert_next_sentence": ("FlaxBertForNextSentencePrediction", {}, {}),
    "bert_sequence_classification": ("FlaxBertForSequenceClassification", {"num_labels": 3}, {}),
    "bert_multiple_choice": ("FlaxBertForMultipleChoice", {}, {}),
    "bert_token_classification": (
        "FlaxBertForTokenClassification", {}, {"max_shard_size": "2KB"},
    ),
    "bert_question_answering": ("FlaxBertForQuestionAnswering", {}, {"safe_serialization": True}),
    "distilbert": ("FlaxDistilBertModel", {}, {}),
    "distilbert_masked_lm": ("FlaxDistilBertForMaskedLM", {}, {}),
    "distilbert_sequence_classification": ("FlaxDistilBertForSequenceClassification", {}, {}),
    "distilbert_multiple_choice": ("FlaxDistilBertForMultipleChoice", {}, {}),
    "distilbert_token_classification": ("FlaxDistilBertForTokenClassification", {}, {}),
    "distilbert_question_answering": ("FlaxDistilBertForQuestionAnswering", {}, {}),
}  # fmt: skip


def inputs_of(case: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shape = (2, 2, 7) if "choice" in case else (2, 7)
    mask = np.ones(shape, np.int32)
    mask[1, ..., 5:] = 0
    inputs = {"input_ids": random.integers(1, 20, shape).astype(np.int32), "attention_mask": mask}
    if not case.startswith("distilbert"):
        inputs["token_type_ids"] = np.cumsum(np.ones(shape, np.int32), -1) // 4 % 2
    if "causal" in case:
        inputs["encoder_hidden_states"] = random.standard_normal((2, 3, 8)).astype(np.float32)
    return inputs


def make(directory: Path, case: str) -> dict[str, np.ndarray]:
    name, changes, options = CASES[case]
    if case.startswith("distilbert"):
        config = transformers.DistilBertConfig(**DISTILBERT, **changes)
    else:
        config = transformers.BertConfig(**BERT, **changes)
    model = getattr(transformers, name)(config, seed=0)
    random = np.random.default_rng(0)
    model.params = jax.tree.map(
        lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32), model.params
    )
    model.save_pretrained(directory / case, **options)
    inputs = inputs_of(case)
    outputs = model(**inputs).to_tuple()
    keys = list(model(**inputs).keys())
    named = {f"out.{key}": np.asarray(x) for key, x in zip(keys, outputs, strict=True)}
    return {f"in.{key}": x for key, x in inputs.items()} | named


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS
    found = {}
    for case in CASES:
        found |= {f"{case}.{key}": x for key, x in make(directory, case).items()}
    np.savez_compressed(directory / "outputs.npz", **found)


if __name__ == "__main__":
    main()
