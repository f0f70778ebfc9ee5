r"""BERT base, uncased, from nothing as RoBERTa was trained: masked tokens alone, in full rows.

Command:
  python train/pretrain.py configs/bert_packed_pretrain.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents

Hardware:
  64 GPUs of 32 GB or as many TPU chips; on fewer of them --accumulate 4 and so on

Settings:
  Liu et al. 2019 (arXiv:1907.11692), table 3: 125,000 updates of 2048 rows of 512 tokens, 7e-4;
  sections 2.4 and 3.1: linear decay, beta2 0.98, new masks in every epoch. The warm-up is in
  proportion to their 10,000 of a million steps. Their DOC-SENTENCES format varies the batch where
  documents end; here the ends of documents share rows instead, and do not see each other.

Published:
  perplexity of held-out masked tokens 3.68; accuracy on MNLI 85.2, on SST-2 92.9 (table 3)

Measured here:
  not yet
"""

from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.pretrain import CorpusConfig, PretrainConfig

config = PretrainConfig(
    task="masked_lm",
    model="bert-base-uncased",
    output_dir="runs/bert_packed_pretrain",
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=512,
    steps=125_000,
    batch_size=2048,
    optimizer=OptimizerConfig(learning_rate=7e-4, warmup_steps=0.01, beta2=0.98),
    logging=LoggingConfig(steps=100),
)
