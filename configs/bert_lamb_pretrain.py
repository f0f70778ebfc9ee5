r"""BERT large, uncased, from nothing in large batches with LAMB: the run of 76 minutes.

Command:
  python train/pretrain.py configs/bert_lamb_pretrain.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents

Hardware:
  a TPU v3 Pod of 1024 chips, as its authors had; on fewer devices --accumulate 64 and so on.
  Layers are computed again in the backward pass: what they hold would take 34 GiB of a core's 16

Settings:
  You et al. 2019 (arXiv:1904.00962): 8599 updates, the first nine tenths of the epochs in batches
  of 64k sequences of 128 tokens and the rest in 32k of 512; 5e-3 and a warm-up of a fifth of the
  steps, which table 4 gives for batches of 32k. There the learning rate rises a second time
  at the longer sequences; here it has one schedule over the whole run.

Published:
  F1 90.58 on SQuAD 1.1 after 76.19 minutes (table 1)

Measured here:
  not yet
"""

from jbert.execution import Execution
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, Phase, PretrainConfig

config = PretrainConfig(
    task="pretraining",
    model="bert-large-uncased",
    output_dir="runs/bert_lamb_pretrain",
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    phases=(
        Phase(length=128, steps=7037, batch_size=65_536),
        Phase(length=512, steps=1562, batch_size=32_768),
    ),
    optimizer=OptimizerConfig(name="lamb", learning_rate=5e-3, warmup_steps=0.2),
    execution=Execution(remat="full"),
    logging=LoggingConfig(steps=1),
)
