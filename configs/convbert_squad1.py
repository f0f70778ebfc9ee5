r"""ConvBERT base on SQuAD 1.1.

Command:
  python train/finetune.py configs/convbert_squad1.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v1.1', file_format='array_record').download_and_prepare()"

Hardware:
  one GPU of 16 GB, which takes the batch of 32 in two halves; several GPUs or TPU cores share it
  without another setting, and need no --accumulate

Settings:
  yitu-opensource/ConvBert, configure_finetuning.py: batches of 32, 1e-4, each layer's learning rate
  0.8 of the one above, warm-up for a tenth of the steps, 2 epochs, rows of 512 tokens that share
  128. Its head predicts a span's end from its start; the one here predicts both by themselves.

Published:
  Development set: exact match 84.7, F1 90.9 (Jiang et al. 2020, arXiv:2008.02496)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="question_answering",
    model="conv-bert-base",
    output_dir="runs/convbert_squad1",
    data=DataConfig(dataset="squad/v1.1"),
    processing={"max_length": 512, "doc_stride": 128},
    batch_size=32,
    accumulate=2,
    epochs=2,
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=0.1, layer_decay=0.8),
)
