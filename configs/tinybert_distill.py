r"""A BERT of four layers and width 312 that imitates the inside of BERT base, as TinyBERT does.

Command:
  python train/distill.py configs/tinybert_distill.py

Data:
  text files in corpus/, English Wikipedia for the published model: a sentence a line and a blank
  line between documents

Hardware:
  8 GPUs of 16 GB; other numbers of devices share the batch of 256 without another setting

Settings:
  Jiao et al. 2020 (arXiv:1909.10351), 4.2 and 4.3, general distillation: embeddings, attention
  scores and hidden states, through projections to the teacher's width; of every three layers of the
  teacher the last; sequences of 128 tokens. Batches of 256 and 3 epochs are those of their README;
  learning rate and warm-up are jbert's choice.

Published:
  GLUE 77.0 on the average of the test sets after a second distillation on each task, with more data
  (the same paper, table 1)

Measured here:
  not yet
"""

from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.distill import (
    CorpusConfig,
    CorpusDistillConfig,
    StartConfig,
    TeacherConfig,
    TransferConfig,
)

config = CorpusDistillConfig(
    task="masked_lm",
    model="bert-base-uncased",
    output_dir="runs/tinybert_distill",
    start=StartConfig(
        scratch=True,
        overrides={
            "num_hidden_layers": 4,
            "hidden_size": 312,
            "intermediate_size": 1200,
            "attention_probs_dropout_prob": 0.0,
        },
    ),
    teacher=TeacherConfig(model="bert-base-uncased", dtype="bfloat16"),
    transfer=TransferConfig(
        task=0.0, soft=0.0, embeddings=1.0, hidden=1.0, attention=1.0, maps="scores",
        layers="uniform",
    ),
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=128,
    epochs=3,
    batch_size=256,
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=0.1),
    logging=LoggingConfig(steps=100),
)  # fmt: skip
