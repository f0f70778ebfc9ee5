r"""DistilBERT base, uncased, on a task of GLUE.

Command:
  python train/finetune.py configs/distilbert_glue.py --data.dataset glue/mrpc

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('glue/mrpc', file_format='array_record').download_and_prepare()"
  another task: --data.dataset glue/T, with T one of cola sst2 mrpc qqp stsb mnli qnli rte wnli,
  which is prepared in the same way

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Sanh et al. 2019 (arXiv:1910.01108) names none; those of BERT's paper, see bert_glue.

Published:
  Development sets, examples/research_projects/distillation/README.md of transformers 4: CoLA 51.3,
  MNLI 82.1, MRPC 87.5, QNLI 89.2, QQP 88.5, RTE 59.9, SST-2 91.3, STS-B 86.9, WNLI 56.3;
  it does not say which of a task's two metrics

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="sequence_classification",
    model="distilbert-base-uncased",
    output_dir="runs/distilbert_glue",
    data=DataConfig(dataset="glue/mrpc"),
    processing={"max_length": 128},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=2e-5),
)
