r"""DistilBERT base, uncased, from six layers of BERT base and beside all twelve.

Command:
  python train/distill.py configs/distilbert_distill.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents

Hardware:
  8 GPUs of 16 GB for 90 hours, as its authors had; on other numbers of devices another --accumulate

Settings:
  Sanh et al. 2019 (arXiv:1910.01108), 2 and 3: a student of every second layer, soft targets at
  temperature 2, masked tokens and cosine of hidden states, batches of up to 4000. The weights 5, 2
  and 1, predictions compared at all tokens, learning rate, warm-up and clipping are those of their
  script (huggingface/transformers, examples/research_projects/distillation/README.md, train.py).
  It masks rare tokens more often than others, which this run does not.

Published:
  GLUE 77.0 on the average of the development sets, BERT base 79.5 (the same paper, table 1)

Measured here:
  not yet
"""

from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.distill import (
    CorpusConfig,
    CorpusDistillConfig,
    InitialConfig,
    TeacherConfig,
    TransferConfig,
)

config = CorpusDistillConfig(
    task="masked_lm",
    model="distilbert-base-uncased",
    output_dir="runs/distilbert_distill",
    teacher=TeacherConfig(model="bert-base-uncased", dtype="bfloat16"),
    initial=InitialConfig(take="layers", layers=(0, 2, 4, 7, 9, 11)),
    transfer=TransferConfig(soft=5.0, task=2.0, cosine=1.0, temperature=2.0, positions="all"),
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=512,
    epochs=3,
    batch_size=4096,
    accumulate=64,
    optimizer=OptimizerConfig(
        learning_rate=5e-4, warmup_steps=0.05, weight_decay=0.0, beta2=0.98, epsilon=1e-6,
        max_grad_norm=5.0,
    ),
    logging=LoggingConfig(steps=10),
)  # fmt: skip
