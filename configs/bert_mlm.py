r"""BERT base, uncased, adapted to the language of your own texts.

Command:
  python train/finetune.py configs/bert_mlm.py --data.train_file texts.txt

Data:
  a file with a text in each line; a tenth of it is held out for the perplexity

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), 3.1: 15 % of the tokens are hidden, each time others.
  Batch, learning rate and epochs are the usual ones of fine-tuning, not of a paper.

Published:
  None: perplexity depends on the texts. That of the model as it was is the one to compare with.

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="masked_lm",
    model="bert-base-uncased",
    output_dir="runs/bert_mlm",
    data=DataConfig(train_file="texts.txt"),
    processing={"max_length": 128, "rate": 0.15},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
