"""The table of docs/plan.md: each recipe on the chips that its docstring names.

python -m benchmarks.plan [RECIPE …]

Needs the extra tpu-plan. On two idle cores it takes half an hour, and a minute once the
compiler's answers are kept.
"""

import argparse

from jbert.plan.command import table
from jbert.plan.wish import Wish

# For "a GPU of 16 GB", the TPU chip with as much memory.
SLICES: dict[str, tuple[str, ...]] = {
    "bert_conll": ("v5e:1x1",),
    "bert_glue": ("v5e:1x1", "v5e:2x4"),
    "bert_mlm": ("v5e:1x1",),
    "bert_squad1": ("v5e:1x1", "v5e:2x4"),
    "bert_squad2": ("v5e:2x4", "v3:2x2"),
    "bert_swag": ("v5e:1x1",),
    "convbert_glue": ("v5e:1x1",),
    "convbert_squad1": ("v5e:1x1",),
    "distilbert_glue": ("v5e:1x1",),
    "distilbert_squad1": ("v5e:1x1",),
    "mobilebert_glue": ("v5e:1x1",),
    "mobilebert_squad1": ("v5e:1x1", "v3:2x2"),
    "mobilebert_squad2": ("v5e:1x1",),
    "quickstart": ("v5e:1x1",),
    "bert_pretrain": ("v5e:4x4", "v3:4x4"),
    "bert_packed_pretrain": ("v4:4x4x4",),
    "convbert_pretrain": ("v3:2x2",),
    "mobilebert_pretrain": ("v3:8x16",),
    "bert_lamb_pretrain": ("v3:32x32",),
    "distilbert_squad1_distill": ("v5e:1x1",),
    "tinybert_distill": ("v5e:2x4",),
    "distilbert_distill": ("v5e:2x4",),
    "mobilebert_transfer": ("v3:8x16",),
    "mobilebert_distill": ("v3:8x16",),
}
# Of recipes whose teacher has to be trained first.
TEACHERS = dict.fromkeys(("mobilebert_transfer", "mobilebert_distill"), "ib-bert-large-uncased")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="*", choices=[[], *SLICES], default=[])
    chosen = parser.parse_args().recipe or list(SLICES)
    rows = ((name, topology) for name in chosen for topology in SLICES[name])
    for line in table((name, at, Wish(teacher=TEACHERS.get(name))) for name, at in rows):
        print(line, flush=True)


if __name__ == "__main__":
    main()
