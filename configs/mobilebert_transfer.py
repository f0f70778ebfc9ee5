r"""MobileBERT's first half: the layers of IB-BERT, learned one after the other.

Command:
  python train/distill.py configs/mobilebert_transfer.py

Data:
  text files in corpus/, English Wikipedia and books for the published model: a sentence a line and
  a blank line between documents. The teacher is IB-BERT large, which its authors kept; train one:
  python train/pretrain.py configs/bert_pretrain.py --model ib-bert-large-uncased \
    --start.tokenizer bert-base-uncased --output_dir runs/ib_bert

Hardware:
  a TPU v3-256, as its authors had; on fewer devices --accumulate 16 and so on

Settings:
  Sun et al. 2020 (arXiv:2004.02984), 3.3 and 3.4, progressive knowledge transfer, with the numbers
  of google-research/google-research, mobilebert/README.md and lamb_optimizer.py: 240,000 updates,
  10,000 a layer, of 2048 sequences of 512 tokens; LAMB with 1.5e-3 times 3, a tenth of it below the
  layer in turn; feature maps weigh 100, their means 5000 and variances 5, attention 1. Everything
  outside the layers is the teacher's. There is no dropout.

Published:
  none of this half alone; mobilebert_distill goes on with it

Measured here:
  not yet
"""

from jbert.data.pretraining import Masking
from jbert.training.config import LoggingConfig, OptimizerConfig
from jbert.training.distill import (
    CorpusConfig,
    CorpusDistillConfig,
    InitialConfig,
    ProgressConfig,
    StartConfig,
    TeacherConfig,
    TransferConfig,
)

config = CorpusDistillConfig(
    task="pretraining",
    model="mobilebert-uncased",
    output_dir="runs/mobilebert_transfer",
    start=StartConfig(scratch=True, overrides={"attention_probs_dropout_prob": 0.0}),
    teacher=TeacherConfig(model="runs/ib_bert", dtype="bfloat16"),
    initial=InitialConfig(take="outside"),
    transfer=TransferConfig(
        task=0.0, next_sentence=0.0, soft=0.0, attention=1.0, hidden=100.0, normalise=True,
        means=5000.0, variances=5.0,
    ),
    progress=ProgressConfig(layer_by_layer=True, below=0.1, warmup=0.1),
    data=CorpusConfig(train_files=("corpus",), validation_share=0.001),
    max_length=512,
    steps=240_000,
    batch_size=2048,
    masking=Masking(max_predictions=20),
    optimizer=OptimizerConfig(
        name="lamb", learning_rate=4.5e-3, warmup_steps=10_000, schedule="constant"
    ),
    logging=LoggingConfig(steps=100),
)  # fmt: skip
