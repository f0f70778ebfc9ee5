r"""BERT large, uncased, on SQuAD 2.0, where some questions have no answer.

Command:
  python train/finetune.py configs/bert_squad2.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v2.0', file_format='array_record').download_and_prepare()"

Hardware:
  eight GPUs of 16 GB or TPU cores, or one GPU of 80 GB; with less, --accumulate 4

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), 4.3: batches of 48, 5e-5, 2 epochs. No answer is predicted
  where it scores higher than every answer; the thresholds that serve the scores best are in the
  figures, best_exact and best_f1.

Published:
  Development set: exact match 78.7, F1 81.9 at the best threshold (the same paper, table 3,
  BERT large)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="question_answering",
    model="bert-large-uncased",
    output_dir="runs/bert_squad2",
    data=DataConfig(dataset="squad/v2.0"),
    processing={"max_length": 384, "doc_stride": 128, "null_threshold": 0.0},
    batch_size=48,
    epochs=2,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
