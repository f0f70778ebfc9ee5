"""Writes what a fine-tuning with transformers' Flax classes leaves into `corpus/tuned/`: weights,
names of labels, tokenizer, and in answers.npz what the model says of two texts.

    python tests/formats/make_tuned.py [DIRECTORY]

Needs transformers < 5 and flax. Written with transformers 4.57.6.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import transformers

CORPUS = Path(__file__).parent / "corpus" / "tuned"
WORDS = "the sea was calm cold and warm . anna wrote from oslo ##s un ##kind".split()
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
TEXTS = ["The sea was calm and warm.", "Anna wrote from Oslo"]
LABELS = {0: "bad", 1: "good", 2: "neither"}
SHARED = {
    "vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "id2label": LABELS,
    "label2id": {name: number for number, name in LABELS.items()},
}  # fmt: skip
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
DISTILBERT = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 6}
# Directory: class of the model, of the tokenizer, configuration.
CASES = {
    "bert": (
        transformers.FlaxBertForSequenceClassification,
        transformers.BertTokenizerFast,
        transformers.BertConfig(**BERT, **SHARED),
    ),
    "distilbert": (
        transformers.FlaxDistilBertForTokenClassification,
        transformers.DistilBertTokenizerFast,
        transformers.DistilBertConfig(**DISTILBERT, **SHARED),
    ),
}


def make(directory: Path, case: str, vocabulary: Path) -> None:
    model_class, tokenizer_class, config = CASES[case]
    model = model_class(config, seed=0)
    random = np.random.default_rng(0)
    # As training would leave them: no bias is 0, no norm's scale 1.
    model.params = jax.tree.map(
        lambda x: (x + 0.2 * random.standard_normal(x.shape)).astype(np.float32), model.params
    )
    tokenizer = tokenizer_class(str(vocabulary))
    inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
    model.save_pretrained(directory / case)
    tokenizer.save_pretrained(directory / case)
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    np.savez_compressed(
        directory / case / "answers.npz", **arrays, logits=np.asarray(model(**inputs).logits)
    )


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n")
    for case in CASES:
        make(directory, case, vocabulary)
    vocabulary.unlink()


if __name__ == "__main__":
    main()
