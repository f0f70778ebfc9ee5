r"""MobileBERT from nothing with LAMB: masked tokens and the next sentence, without a teacher.

Command:
  python train/pretrain.py configs/mobilebert_pretrain.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents

Hardware:
  a TPU v3-256, as its authors had; on fewer devices --accumulate 16 and so on

Settings:
  google-research/google-research, mobilebert/README.md: 500,000 updates of 2048 sequences of 512
  tokens with at most 20 masked, LAMB with 1.5e-3, a warm-up of 10,000 steps. Its first phase, of
  4096 sequences of 128, has no steps there. The published model learned from a teacher at the same
  time and for 240,000 steps before.

Published:
  GLUE 77.7 on the average, with the teacher (Sun et al. 2020, arXiv:2004.02984, abstract)

Measured here:
  not yet
"""

from jbert.data.pretraining import Masking
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, PretrainConfig

config = PretrainConfig(
    task="pretraining",
    model="mobilebert-uncased",
    output_dir="runs/mobilebert_pretrain",
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=512,
    steps=500_000,
    batch_size=2048,
    masking=Masking(max_predictions=20),
    optimizer=OptimizerConfig(name="lamb", learning_rate=1.5e-3, warmup_steps=10_000),
    logging=LoggingConfig(steps=100),
)
