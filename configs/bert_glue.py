r"""BERT base, cased, on a task of GLUE.

Command:
  python train/finetune.py configs/bert_glue.py --data.dataset glue/mrpc

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('glue/mrpc', file_format='array_record').download_and_prepare()"
  another task: --data.dataset glue/T, with T one of cola sst2 mrpc qqp stsb mnli qnli rte wnli,
  which is prepared in the same way

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), 4.1: batches of 32, 3 epochs, the best learning rate on the
  development set of 5e-5, 4e-5, 3e-5 and 2e-5. Warm-up and weight decay as in google-research/bert.

Published:
  Development sets, mean ± deviation of 5 runs with 2e-5 and 3 epochs (MRPC and WNLI: 5), Hugging
  Face's Flax example, examples/flax/text-classification/README.md of transformers 4:
  CoLA Matthews 59.04 ± 1.06, SST-2 accuracy 92.23 ± 0.57, MRPC F1 / accuracy 88.97 ± 0.72 /
  84.36 ± 1.09, STS-B Pearson / Spearman 88.94 / 88.63 ± 0.07, QQP accuracy / F1 90.76 ± 0.05 /
  87.51 ± 0.06, MNLI matched accuracy 83.80 ± 0.16, QNLI accuracy 90.82 ± 0.17, RTE accuracy
  64.76 ± 1.04, WNLI accuracy 37.01 ± 6.83 (not learnable; the majority is 56.3)

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="sequence_classification",
    model="bert-base-cased",
    output_dir="runs/bert_glue",
    data=DataConfig(dataset="glue/mrpc"),
    processing={"max_length": 128},
    batch_size=32,
    epochs=3,
    optimizer=OptimizerConfig(learning_rate=2e-5),
)
