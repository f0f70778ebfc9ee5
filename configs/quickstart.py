"""A small BERT from scratch that judges short reviews, in under a minute and without a network.

Command:
  python train/finetune.py configs/quickstart.py
  jbert predict text-classification --model runs/quickstart/model "The battery died after two days."

Data:
  none to prepare: jbert writes the reviews itself, see jbert/data/quickstart.py

Hardware:
  two CPU cores

Settings:
  two layers of 64, and a vocabulary of 1000 learned from the reviews. Weights start 6 times larger
  than BERT's: so few steps do not find the words that matter from smaller ones.

Published:
  none, it is jbert's own. Chance is 33 %; TF-IDF with logistic regression has 76 % on the test
  split from words, 87 % from words and pairs of them.

Measured here:
  accuracy on the test split 96.7 % with seed 0, 97.3 % with seed 1; 44 s of processor time in all,
  compiling included
"""

from jbert.data.splits import DataConfig
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.finetune import FinetuneConfig
from jbert.training.start import StartConfig

config = FinetuneConfig(
    task="sequence_classification",
    model="bert-tiny",
    output_dir="runs/quickstart",
    data=DataConfig(dataset="quickstart"),
    start=StartConfig(
        scratch=True,
        vocab_size=1000,
        overrides={
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.12,
        },
    ),
    processing={"max_length": 40, "buckets": (20, 40)},
    batch_size=32,
    epochs=7,
    optimizer=OptimizerConfig(learning_rate=2e-3, beta2=0.98),
    logging=LoggingConfig(steps=50),
)
