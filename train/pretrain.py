"""Teach a model a language: python train/pretrain.py configs/bert_pretrain.py [--field value …]"""

import sys

from jbert.training.command import main
from jbert.training.pretrain import PretrainConfig, pretrain

if __name__ == "__main__":
    sys.exit(main(PretrainConfig, pretrain, "python train/pretrain.py"))
