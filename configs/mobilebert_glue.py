r"""MobileBERT on a task of GLUE.

Command:
  python train/finetune.py configs/mobilebert_glue.py --data.dataset glue/mrpc

Data:
  python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; \
    tfds.builder('glue/mrpc', file_format='array_record').download_and_prepare()"
  another task: --data.dataset glue/T, with T one of cola sst2 mrpc qqp stsb mnli qnli rte wnli,
  which is prepared in the same way

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Sun et al. 2020 (arXiv:2004.02984), a search for each task: batches of 16, 32 or 48, learning
  rates of 1e-5 to 10e-5, 2 to 10 epochs. Here it is the point that its authors show for SQuAD.

Published:
  Test sets, GLUE score 77.7 (the same paper's abstract); after a search that a single run is not

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="sequence_classification",
    model="mobilebert-uncased",
    output_dir="runs/mobilebert_glue",
    data=DataConfig(dataset="glue/mrpc"),
    processing={"max_length": 128},
    batch_size=32,
    epochs=5,
    optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=0.1),
)
