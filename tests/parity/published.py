"""Models as transformers saves them, and what both libraries make of them."""

from pathlib import Path
from typing import Any

import oracle
import torch
import variants
from safetensors.torch import save_file

LABELS = {0: "no", 1: "maybe", 2: "yes"}


def written(arch: str, task: str | None, directory: Path, tied: bool = True) -> Any:
    """transformers' model, and the directory that it saved itself to."""
    fields = {**variants.BASE[arch], "id2label": LABELS, "tie_word_embeddings": tied}
    fields["label2id"] = {label: i for i, label in LABELS.items()}
    if task == "question_answering":
        del fields["id2label"], fields["label2id"]  # two, of which transformers makes the head
    if task == "causal_lm":
        fields["is_decoder"] = True
    model = oracle.torch_model(arch, task, fields)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.4)  # less sharp: one rounding stays one rounding
    if task == "replaced_token_detection":
        # transformers has no such class; what its authors would have saved.
        state = {name: torch.from_numpy(x.copy()) for name, x in oracle.named(model, arch).items()}
        model.config.save_pretrained(directory)
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        model.save_pretrained(directory)
    return model


def same_outputs(found: Any, expected: Any, arch: str) -> None:
    found, expected = oracle.outputs(found), oracle.outputs(expected)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        oracle.assert_close(found[name], value, oracle.LAYER, name, arch == "mobilebert")


def run(model: Any, inputs: dict) -> Any:
    with torch.no_grad():
        return model(**oracle.tensors(inputs))
