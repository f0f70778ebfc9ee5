r"""BERT base, uncased, from nothing: masked tokens and the next sentence.

Command:
  python train/pretrain.py configs/bert_pretrain.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents

Hardware:
  16 TPU chips for four days, as its authors had (4 Cloud TPUs in Pod configuration)

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), A.2: a million updates of 256 sequences, nine tenths of
  them of 128 tokens and the rest of 512, Adam with 1e-4, a warm-up of 10,000 steps, linear decay,
  dropout 0.1. create_pretraining_data.py: rate 0.15, a tenth of the pairs shorter. Its five or ten
  copies of the corpus are not needed here: masks and random sentences are new in every epoch.

Published:
  Adapted to MNLI the accuracy is 84.6 / 83.4 on the test sets (Devlin et al., table 1)

Measured here:
  not yet
"""

from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, Phase, PretrainConfig

config = PretrainConfig(
    task="pretraining",
    model="bert-base-uncased",
    output_dir="runs/bert_pretrain",
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    phases=(
        Phase(length=128, steps=900_000, batch_size=256),
        Phase(length=512, steps=100_000, batch_size=256),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
    logging=LoggingConfig(steps=100),
)
