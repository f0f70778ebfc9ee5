r"""DistilBERT base, uncased, on SQuAD 1.1.

Command:
  python train/finetune.py configs/distilbert_squad1.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v1.1', file_format='array_record').download_and_prepare()"

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Sanh et al. 2019 (arXiv:1910.01108) names none; those of BERT's paper, see bert_squad1.

Published:
  Development set: exact match 77.7, F1 85.8 (the same paper, table 2). With a fine-tuned BERT as a
  teacher it is 79.1 and 86.9, which this run has not.

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="question_answering",
    model="distilbert-base-uncased",
    output_dir="runs/distilbert_squad1",
    data=DataConfig(dataset="squad/v1.1"),
    processing={"max_length": 384, "doc_stride": 128},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
