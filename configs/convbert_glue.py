r"""ConvBERT base on a task of GLUE.

Command:
  python train/finetune.py configs/convbert_glue.py --data.dataset glue/mrpc

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('glue/mrpc', file_format='array_record').download_and_prepare()"
  another task: --data.dataset glue/T, with T one of cola sst2 mrpc qqp stsb mnli qnli rte wnli,
  which is prepared in the same way

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  yitu-opensource/ConvBert, configure_finetuning.py: batches of 32, 1e-4, each layer's learning rate
  0.8 of the one above, warm-up for a tenth of the steps, 3 epochs; for RTE and STS-B --epochs 10.

Published:
  Test sets (Jiang et al. 2020, arXiv:2008.02496): MNLI 88.3, QNLI 93.2, QQP 90.0,
  RTE 77.9, SST-2 95.7, MRPC 88.3, CoLA 67.8, STS-B 89.7, on average 86.4

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="sequence_classification",
    model="conv-bert-base",
    output_dir="runs/convbert_glue",
    data=DataConfig(dataset="glue/mrpc"),
    processing={"max_length": 128},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=0.1, layer_decay=0.8),
)
