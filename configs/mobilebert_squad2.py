r"""MobileBERT on SQuAD 2.0.

Command:
  python train/finetune.py configs/mobilebert_squad2.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v2.0', file_format='array_record').download_and_prepare()"

Hardware:
  a TPU v3-8, as its authors had, or one GPU of 16 GB; several devices share the batch of 32

Settings:
  google-research/google-research, mobilebert/README.md: batches of 32, 4e-5, 5 epochs, warm-up for
  a tenth of the steps, rows of 384 tokens that share 128. It names them for SQuAD 1.1.

Published:
  Development set: F1 79.2 (Sun et al. 2020, arXiv:2004.02984, abstract)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="question_answering",
    model="mobilebert-uncased",
    output_dir="runs/mobilebert_squad2",
    data=DataConfig(dataset="squad/v2.0"),
    processing={"max_length": 384, "doc_stride": 128, "null_threshold": 0.0},
    batch_size=32,
    epochs=5,
    optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=0.1),
)
