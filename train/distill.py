"""Train a student beside a teacher: python train/distill.py configs/NAME.py [--field value …]"""

import sys

from jbert.training.command import main
from jbert.training.distill import DistillConfig, distill, explain_settings

if __name__ == "__main__":
    prog = "python train/distill.py"
    sys.exit(main(DistillConfig, distill, prog, explain=explain_settings))
