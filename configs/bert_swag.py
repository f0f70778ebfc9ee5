r"""BERT base, uncased, on SWAG: which of four sentences goes on.

Command:
  python train/finetune.py configs/bert_swag.py \
    --data.train_file swag/train.csv --data.validation_file swag/val.csv

Data:
  data/train.csv and data/val.csv of github.com/rowanz/swagaf, in swag/; TFDS has not got them

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 16 without another setting
  (a row is four sequences)

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), 4.4: batches of 16, 2e-5, 3 epochs.

Published:
  Development set: accuracy 81.6 (the same paper, table 4, BERT base)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="multiple_choice",
    model="bert-base-uncased",
    output_dir="runs/bert_swag",
    data=DataConfig(train_file="swag/train.csv", validation_file="swag/val.csv", format="swag"),
    processing={"max_length": 128},
    batch_size=16,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=2e-5),
)
