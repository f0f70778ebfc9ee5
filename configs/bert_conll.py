r"""BERT base, cased, on the named entities of CoNLL-2003.

Command:
  python train/finetune.py configs/bert_conll.py \
    --data.train_file conll/eng.train --data.validation_file conll/eng.testa \
    --data.test_file conll/eng.testb

Data:
  the shared task's files, in columns, from www.clips.uantwerpen.be/conll2003/ner, in conll/

Hardware:
  one GPU of 16 GB; several GPUs or TPU cores share the batch of 32 without another setting

Settings:
  Devlin et al. 2018 (arXiv:1810.04805), A.3: batches of 16 or 32, one of 5e-5, 3e-5 and 2e-5,
  and 2, 3 or 4 epochs; 5.3: a tag is read from a word's first piece.

Published:
  F1 96.4 on the development set, 92.4 on the test set (the same paper, table 7, BERT base). There,
  sentences have the rest of their document as context; here they stand alone, which gives less.

Measured here:
  not yet
"""

from jbert.data.splits import DataConfig
from jbert.training.config import OptimizerConfig
from jbert.training.finetune import FinetuneConfig

config = FinetuneConfig(
    task="token_classification",
    model="bert-base-cased",
    output_dir="runs/bert_conll",
    data=DataConfig(
        train_file="conll/eng.train",
        validation_file="conll/eng.testa",
        test_file="conll/eng.testb",
        format="conll",
    ),
    processing={"max_length": 128},
    batch_size=32,
    epochs=4,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)
