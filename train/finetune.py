"""Adapt a model to a task: python train/finetune.py configs/quickstart.py [--field value …]"""

import sys

from jbert.training.command import main
from jbert.training.finetune import FinetuneConfig, explain_settings, finetune

if __name__ == "__main__":
    prog = "python train/finetune.py"
    sys.exit(main(FinetuneConfig, finetune, prog, explain=explain_settings))
