r"""MobileBERT's second half: masked tokens beside IB-BERT's predictions, and the next sentence.

Command:
  python train/distill.py configs/mobilebert_distill.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents. The student is what mobilebert_transfer left, and the teacher the
  same IB-BERT.

Hardware:
  a TPU v3-256, as its authors had; on fewer devices --accumulate 16 and so on

Settings:
  Sun et al. 2020 (arXiv:2004.02984), 3.3, pretraining distillation: half labels, half the teacher's
  predictions at the masked tokens. google-research/google-research, mobilebert/README.md: 500,000
  updates of 2048 sequences of 512 tokens with at most 20 masked, LAMB with 1.5e-3, a warm-up of
  10,000 steps, temperature 1.

Published:
  GLUE 77.7 on the average of the test sets (the same paper, abstract)

Measured here:
  not yet
"""

from jbert.data.pretraining import Masking
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.distill import (
    CorpusConfig,
    CorpusDistillConfig,
    StartConfig,
    TeacherConfig,
    TransferConfig,
)

config = CorpusDistillConfig(
    task="pretraining",
    model="runs/mobilebert_transfer/model",
    output_dir="runs/mobilebert_distill",
    start=StartConfig(),
    teacher=TeacherConfig(model="runs/ib_bert", dtype="bfloat16"),
    transfer=TransferConfig(task=0.5, soft=0.5, next_sentence=1.0, temperature=1.0),
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=512,
    steps=500_000,
    batch_size=2048,
    masking=Masking(max_predictions=20),
    optimizer=OptimizerConfig(name="lamb", learning_rate=1.5e-3, warmup_steps=10_000),
    logging=LoggingConfig(steps=100),
)
