"""What a published model is: its configuration, and where its files are."""

import dataclasses

from jbert.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model under the short name that `jbert.load` takes.

    config:    the architecture as published.
    hub_id:    its repository on the Hugging Face hub; None where its authors kept the weights.
    revision:  a branch, tag or commit to read from, when that is not `main`.
    """

    config: ModelConfig
    hub_id: str | None
    revision: str | None = None
