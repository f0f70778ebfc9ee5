r"""DistilBERT base, uncased, on SQuAD 1.1, beside a BERT base that was fine-tuned on it.

Command:
  python train/distill.py configs/distilbert_squad1_distill.py

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('squad/v1.1', file_format='array_record').download_and_prepare()"
  and the teacher: python train/finetune.py configs/bert_squad1.py

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Sanh et al. 2019 (arXiv:1910.01108), 3, name none. Half labels, half the teacher's predictions, at
  temperature 2: the defaults of their run_squad_w_distillation.py; the rest as distilbert_squad1.

Published:
  Development set: exact match 79.1, F1 86.9; without a teacher 77.7 and 85.8 (the same paper,
  table 2)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.distill import TaskDistillConfig, TeacherConfig, TransferConfig

config = TaskDistillConfig(
    task="question_answering",
    model="distilbert-base-uncased",
    output_dir="runs/distilbert_squad1_distill",
    teacher=TeacherConfig(model="runs/bert_squad1"),
    transfer=TransferConfig(task=0.5, soft=0.5, temperature=2.0),
    data=DataConfig(dataset="squad/v1.1"),
    processing={"max_length": 384, "doc_stride": 128},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
