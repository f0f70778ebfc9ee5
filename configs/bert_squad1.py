r"""BERT base, uncased, on SQuAD 1.1.

Command:
  python train/finetune.py configs/bert_squad1.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v1.1', file_format='array_record').download_and_prepare()"

Hardware:
  one GPU of 16 GB, which takes the batch of 32 in two halves; several GPUs or TPU cores share it
  without another setting, and need no --accumulate

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), 4.2: batches of 32, 5e-5, 3 epochs. Rows of 384 tokens that
  share 128, questions of 64 and answers of 30: the defaults of google-research/bert.

Published:
  Development set: exact match 80.8, F1 88.5 (the same paper, table 2, BERT base)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="question_answering",
    model="bert-base-uncased",
    output_dir="runs/bert_squad1",
    data=DataConfig(dataset="squad/v1.1"),
    processing={"max_length": 384, "doc_stride": 128},
    batch_size=32,
    accumulate=2,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
