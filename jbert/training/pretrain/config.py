"""What a pretraining run is: its fields, their defaults, and what can be refused without data."""

import dataclasses
from typing import Literal

from jbert.data.pretraining import Masking
from jbert.training.config import CheckpointConfig, OptimizerConfig, RunConfig, RunError
from jbert.training.start import StartConfig

Task = Literal["masked_lm", "pretraining", "replaced_token_detection"]
# [CLS] and [SEP] around a token; with a second text, and its own [SEP].
SHORTEST = {"masked_lm": 3, "pretraining": 5, "replaced_token_detection": 3}

# What a checkpoint can be best at; by default the first.
METRICS = {
    "masked_lm": ("perplexity", "loss"),
    "pretraining": ("perplexity", "loss", "mlm_loss", "nsp_accuracy"),
    "replaced_token_detection": ("loss", "perplexity", "accuracy", "precision", "recall"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The text: a sentence, or any stretch of text, a line, and a blank line between documents."""

    train_files: tuple[str, ...] = ()
    """Text files, also gzip, or directories of *.txt and *.txt.gz."""
    validation_files: tuple[str, ...] = ()
    """The same for evaluations; by default some documents are held out of the training files."""
    validation_share: float = 0.01
    """How many documents are held out: the same ones in every run."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a line that is no UTF-8, or leave such lines out and say how many."""
    duplicates: int = 1
    """Of sentence pairs: how many times an epoch goes through each document, cut anew each time."""
    short_share: float = 0.1
    """Of sentence pairs: the share of documents whose pairs aim at a random shorter length."""
    cache_dir: str | None = None
    """Where the tokenised corpus is kept; by default the user's cache directory."""

    def __post_init__(self):
        for name in ("train_files", "validation_files"):
            if isinstance(getattr(self, name), str):
                raise RunError(f"data.{name} is a string; expected several paths, such as (path,)")
        if not 0 < self.validation_share < 1:
            raise RunError(
                f"data.validation_share is {self.validation_share}; expected a share, 0 to 1"
            )
        if self.duplicates < 1:
            raise RunError(f"data.duplicates is {self.duplicates}; expected at least 1")
        if not 0 <= self.short_share <= 1:
            raise RunError(f"data.short_share is {self.short_share}; expected a share, from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run with sequences of one length."""

    length: int = 128
    """The most tokens of a sequence, special ones included."""
    steps: int = 1000
    """Updates in this phase."""
    batch_size: int = 0
    """Rows in an update; 0 is the run's batch_size."""


@dataclasses.dataclass(frozen=True)
class PackingConfig:
    """Several short sequences in one row, which do not see each other."""

    enabled: bool | None = None
    """By default wherever the task allows it; that is not the task pretraining, whose
    next-sentence prediction reads the first token of a row."""
    max_sequences: int | None = None
    """The most sequences of a row."""
    row_length: int | None = None
    """The length of packed rows; by default the longest that a sequence may be."""

    def __post_init__(self):
        if self.max_sequences is not None and self.max_sequences < 1:
            raise RunError(
                f"packing.max_sequences is {self.max_sequences}; expected at least 1 a row"
            )


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Of replaced-token detection: the masked language model whose guesses are to be detected.

    Its word, position and segment embeddings are the discriminator's, times a trained matrix where
    the generator's are narrower.
    """

    width: float = 0.25
    """Its width, heads and feed-forward layers, relative to the discriminator's."""
    layers: float = 1.0
    """Its layers, relative to the discriminator's."""
    weight: float = 1.0
    """Of its loss in the sum."""
    discriminator_weight: float = 50.0
    """Of the discriminator's loss in the sum."""

    def __post_init__(self):
        for name in ("width", "layers"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise RunError(f"generator.{name} is {value}; expected more than 0, at most 1")
        for name in ("weight", "discriminator_weight"):
            value = getattr(self, name)
            if not value > 0:
                raise RunError(f"generator.{name} is {value}; expected more than 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """A run that teaches a model a language, from text alone."""

    task: Task = "masked_lm"
    """masked_lm; pretraining, which is masked_lm and next-sentence prediction as in BERT; or
    replaced_token_detection, as in ELECTRA and ConvBERT."""
    data: CorpusConfig = CorpusConfig()
    start: StartConfig = StartConfig(scratch=True)
    max_length: int = 128
    """The most tokens of a sequence, special ones included; phases have their own."""
    phases: tuple[Phase, ...] = ()
    """Parts of the run with their own lengths and batches, under one schedule of learning rates."""
    masking: Masking = Masking()
    packing: PackingConfig = PackingConfig()
    generator: GeneratorConfig = GeneratorConfig()
    gather: bool = True
    """Project the masked positions alone to the vocabulary."""
    chunked_loss: bool = True
    """Compute the loss without ever holding the logits of all positions, and once more for the
    gradient: what they take does not grow with the vocabulary. A generator needs its logits."""
    batch_size: int = 256
    """Rows in an update, over all devices and micro-batches; phases may have their own."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, warmup_steps=0.01)
    checkpoints: CheckpointConfig = CheckpointConfig(best=False)

    def __post_init__(self):
        super().__post_init__()
        for phase in self.phases:
            self._check_phase(phase)
        steps = sum(phase.steps for phase in self.phases)
        if self.phases and self.steps not in (None, steps):
            raise RunError(
                f"steps is {self.steps}, but the phases have {steps} in all; leave steps away, or "
                "change the phases: --phases.0.steps N"
            )
        self._check_lengths()
        self._check_task()

    def _check_phase(self, phase: Phase) -> None:
        if phase.steps < 1 or phase.batch_size < 0:
            raise RunError(f"{phase}: expected at least 1 step, and a batch_size of at least 0")
        size = phase.batch_size or self.batch_size
        if size % self.accumulate:
            raise RunError(
                f"{phase}: a batch of {size} does not divide into {self.accumulate} micro-batches; "
                "change its batch_size, or accumulate"
            )

    def _check_lengths(self) -> None:
        least, room = SHORTEST[self.task], self.packing.row_length
        for length in self.lengths():
            if length < least:
                raise RunError(f"sequences of {length} tokens; {self.task} expects {least} or more")
        if room is not None and room < max(self.lengths()):
            raise RunError(
                f"packing.row_length is {room}, but sequences have up to {max(self.lengths())} "
                "tokens; expected a row for the longest of them at least"
            )

    def _check_task(self) -> None:
        pairs, packing = self.task == "pretraining", self.packing
        of_rows = packing.max_sequences is not None or packing.row_length is not None
        if pairs and (packing.enabled or of_rows):
            raise RunError(
                f"{packing} with the task pretraining: next-sentence prediction reads the first "
                "token of a row, and a packed row holds several pairs; leave packing away, or take "
                "the task masked_lm"
            )
        if packing.enabled is False and of_rows:
            raise RunError(f"{packing}: there is nothing to say of packed rows without packing")
        if not pairs and self.data.duplicates != 1:
            raise RunError(
                f"data.duplicates is {self.data.duplicates}, which is of sentence pairs; "
                f"{self.task} masks its rows anew in every epoch, so give it more epochs"
            )
        metric, names = self.evaluation.metric, METRICS[self.task]
        if metric and metric not in names:
            raise RunError(
                f"evaluation.metric is {metric!r}; {self.task} has {', '.join(names)} to choose by"
            )
        if self.masking.rate == 0:
            raise RunError("masking.rate is 0, which leaves nothing to predict; expected more")
        if self.task != "replaced_token_detection" and self.generator != GeneratorConfig():
            raise RunError(f"{self.generator} is of replaced_token_detection, not of {self.task}")

    def lengths(self) -> tuple[int, ...]:
        """The lengths that sequences have in the course of the run."""
        return tuple(phase.length for phase in self.phases) or (self.max_length,)
