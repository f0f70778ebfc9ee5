r"""ConvBERT base from nothing, by telling which tokens a small generator replaced.

Command:
  python train/pretrain.py configs/convbert_pretrain.py

Data:
  text files in corpus/, OpenWebText for the published model: a sentence a line and a blank line
  between documents

Hardware:
  four GPUs of 32 GB or a TPU v3-8; its authors' code was made for a V100

Settings:
  yitu-opensource/ConvBert, configure_pretraining.py: a million updates of 256 sequences of 128
  tokens, 2e-4, a warm-up of 10,000 steps, linear decay, weight decay 0.01, a generator of a third
  of the width, weights of the losses 1 and 50. For the small one --model conv-bert-small
  --batch_size 128 --optimizer.learning_rate 3e-4 --generator.width 0.25, for medium-small 5e-4.

Published:
  GLUE 86.4 on the average (Jiang et al. 2020, arXiv:2008.02496, abstract)

Measured here:
  not yet
"""

from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, GeneratorConfig, PretrainConfig

config = PretrainConfig(
    task="replaced_token_detection",
    model="conv-bert-base",
    output_dir="runs/convbert_pretrain",
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=128,
    steps=1_000_000,
    batch_size=256,
    generator=GeneratorConfig(width=1 / 3),
    optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=10_000),
    logging=LoggingConfig(steps=100),
)
