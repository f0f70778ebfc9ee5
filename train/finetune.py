"""Adapt a model to a task: python train/finetune.py configs/quickstart.py [--field value …]"""

import sys

from jbert.training.command import main
from jbert.training.finetune import FinetuneConfig, finetune

if __name__ == "__main__":
    sys.exit(main(FinetuneConfig, finetune, "python train/finetune.py"))
