"""What a student learns from its teacher, as frozen dataclasses."""

import dataclasses
from typing import Literal

from jbert.training.config import RunConfig, RunError, _check
from jbert.training.distill.layers import NONE

# The weights of the parts, in the order in which their losses are told.
OWN = ("task", "next_sentence")
BESIDE = ("soft", "cosine", "hidden", "means", "variances", "embeddings", "attention")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Who teaches, and how it is computed."""

    model: str = ""
    """A directory, a short name or a hub id; for a task a model that was fine-tuned on it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its activations; bfloat16 is faster where the device has it."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its parameters: bfloat16 takes half the memory."""


@dataclasses.dataclass(frozen=True)
class InitialConfig:
    """What of the teacher a student starts from, rather than from `model`'s own weights."""

    take: Literal["nothing", "outside", "layers"] = "nothing"
    """nothing; all that is outside the layers: embeddings and heads; or that and layers."""
    layers: tuple[int, ...] = ()
    """The teacher's layer for each of the student's, from 0; by default the first, the last, and
    evenly between: 0, 2, 4, 7, 9, 11 for six of twelve."""

    def __post_init__(self):
        if self.layers and self.take != "layers":
            raise RunError(
                f"initial.layers is {self.layers}, but initial.take is {self.take!r}; expected "
                "--initial.take layers with them"
            )


@dataclasses.dataclass(frozen=True)
class ProgressConfig:
    """One layer after the other, each for the same share of all steps."""

    layer_by_layer: bool = False
    """Compare only the layer in turn, and train no layer above it and nothing outside the layers.
    The learning rate of the layer in turn rises and falls anew."""
    below: float = 0.1
    """Learning rate of the layers below the one in turn, relative to its own; 0 freezes them."""
    warmup: float = 0.1
    """Share of a layer's steps over which its learning rate rises from 0."""

    def __post_init__(self):
        _check(
            self,
            below=(0 <= self.below <= 1, "0 to 1"),
            warmup=(0 <= self.warmup <= 1, "0 to 1"),
        )


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """The parts of the loss and how much each weighs; 0 leaves one out, and what it would cost.

    Where hidden states are of different widths, the student's go through a learned projection.
    """

    task: float = 1.0
    """The task's own loss, from labels."""
    next_sentence: float = 1.0
    """Of the task pretraining the loss of the next sentence, from labels; it has no teacher."""
    soft: float = 1.0
    """KL divergence from the teacher's predictions, times temperature²; squared error where the
    task is regression."""
    temperature: float = 2.0
    """Divides the logits of both."""
    positions: Literal["masked", "all"] = "masked"
    """Where a masked LM's predictions are compared: at the masked tokens, or at every token."""
    cosine: float = 0.0
    """1 - cos between the last hidden states."""
    hidden: float = 0.0
    """Squared error between the outputs of layers."""
    normalise: bool = False
    """Compare outputs of layers after a layer norm without scale, as MobileBERT's feature maps."""
    means: float = 0.0
    """Squared error between the means over features of layers' outputs."""
    variances: float = 0.0
    """Absolute error between the variances over features of layers' outputs."""
    embeddings: float = 0.0
    """Squared error between what goes into the first layers."""
    attention: float = 0.0
    """Difference between attention maps, head by head."""
    maps: Literal["probabilities", "scores"] = "probabilities"
    """KL divergence between attention weights, or squared error between the scores behind them."""
    heads: Literal["each", "mean"] = "each"
    """Head with head, for as many in both; or the means over all heads."""
    layers: Literal["uniform", "last"] | tuple[int, ...] = "uniform"
    """Which layers are compared: with the last of each block of the teacher's, with its last ones,
    or with those named, one for each layer of the student, from 0, -1 for none."""

    def __post_init__(self):
        _check(
            self,
            temperature=(self.temperature > 0, "more than 0"),
            **{name: (getattr(self, name) >= 0, "at least 0") for name in (*OWN, *BESIDE)},
        )
        if not any(getattr(self, name) for name in ("task", *BESIDE)):
            raise RunError(f"transfer: task, {', '.join(BESIDE)} are 0; nothing is learned")
        if self.maps == "scores" and self.heads == "mean":
            raise RunError(
                "transfer.heads is 'mean' and transfer.maps 'scores'; a mean over heads is one of "
                "probabilities: use transfer.maps='probabilities', or transfer.heads='each'"
            )
        if not isinstance(self.layers, str) and any(layer < NONE for layer in self.layers):
            raise RunError(f"transfer.layers is {self.layers}; expected layers from 0, -1 for none")

    @property
    def of_layers(self) -> bool:
        """Whether outputs of layers are compared."""
        return bool(self.hidden or self.means or self.variances)

    @property
    def of_pairs(self) -> bool:
        """Whether anything is compared layer by layer."""
        return self.of_layers or bool(self.attention)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """A run that trains a student, `model`, beside a teacher."""

    teacher: TeacherConfig = TeacherConfig()
    initial: InitialConfig = InitialConfig()
    transfer: TransferConfig = TransferConfig()
    progress: ProgressConfig = ProgressConfig()

    def __post_init__(self):
        super().__post_init__()
        if not self.progress.layer_by_layer:
            return
        if not self.transfer.of_pairs:
            raise RunError(
                "progress.layer_by_layer compares layers, but transfer.hidden, means, variances "
                "and attention are 0; expected one of them to weigh something"
            )
        if self.steps is None:
            raise RunError("progress.layer_by_layer divides all steps by layers; expected --steps")
