"""What a training run is, as frozen dataclasses: the fields, their defaults and their checks.

A file in configs/ gives the defaults of a run, the command line overrides single fields by their
dotted names. These classes are the only list of options there is.
"""

import dataclasses
from typing import Literal

from jbert.execution import Execution
from jbert.sharding import EVERYTHING, rules


class RunError(ValueError):
    """A run that cannot be done as it is configured."""


def _check(owner: object, **bounds: tuple[bool, str]) -> None:
    """Raise one error that names every field which is out of bounds, with what was expected."""
    problems = [
        f"{name} is {getattr(owner, name)!r}; expected {expected}"
        for name, (good, expected) in bounds.items()
        if not good
    ]
    if problems:
        raise RunError(f"{type(owner).__name__}: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow their gradients."""

    name: Literal["adamw", "lamb"] = "adamw"
    """adamw, or lamb for batches of thousands."""
    learning_rate: float = 5e-5
    """The highest, at the end of the warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls to 0 after the warm-up, or that it does not."""
    warmup_steps: float = 0.1
    """Steps of warm-up from 0; below 1 it is a share of all steps."""
    weight_decay: float = 0.01
    """Decoupled; norms and biases are left out."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: float = 1e-6
    """Added to the root of that mean; BERT's own was 1e-6, transformers' default is 1e-8."""
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to this; 0 leaves them as they are."""
    layer_decay: float = 1.0
    """Learning rate of each layer relative to the one above it; embeddings are below the first."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are: "*/embeddings/*", "encoder/layer_[0-3]/*"."""
    ema: float = 0.0
    """Decay of an average of the parameters, which is evaluated and kept instead; 0 is none."""

    def __post_init__(self):
        _check(
            self,
            learning_rate=(self.learning_rate > 0, "more than 0"),
            warmup_steps=(self.warmup_steps >= 0, "at least 0"),
            weight_decay=(self.weight_decay >= 0, "at least 0"),
            beta1=(0 <= self.beta1 < 1, "0 <= beta1 < 1"),
            beta2=(0 <= self.beta2 < 1, "0 <= beta2 < 1"),
            epsilon=(self.epsilon > 0, "more than 0"),
            max_grad_norm=(self.max_grad_norm >= 0, "at least 0"),
            layer_decay=(0 < self.layer_decay <= 1, "more than 0 and at most 1"),
            ema=(0 <= self.ema < 1, "0 <= ema < 1"),
            # A string is a sequence of patterns too: of its letters.
            freeze=(not isinstance(self.freeze, str), "several patterns, such as (pattern,)"),
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices share the work, under `parallel="jit"`."""

    data: int = -1
    """Devices over which examples are split; -1 is all that the others leave."""
    fsdp: int = 1
    """Devices over which examples, parameters and optimizer state are split."""
    tensor: int = 1
    """Devices over which heads and hidden layers are split."""
    rules: str = EVERYTHING
    """The sharding presets that apply, see jbert.sharding.RULES."""
    zero: bool = False
    """Also split the optimizer state over `data` (ZeRO-1): less memory, one more all-gather."""

    def __post_init__(self):
        rules(self.rules)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When the model is evaluated, and what its best state is."""

    steps: int = 0
    """Evaluate after so many steps; 0 is once an epoch, and always at the end."""
    batch_size: int = 0
    """Examples at once, over all devices; 0 is twice the training batch."""
    metric: str = ""
    """What the best checkpoint is best at; by default the task's main metric."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0 is never."""

    def __post_init__(self):
        _check(
            self,
            steps=(self.steps >= 0, "at least 0"),
            batch_size=(self.batch_size >= 0, "at least 0"),
            patience=(self.patience >= 0, "at least 0"),
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept so that a run can be resumed."""

    steps: int = 500
    """Save after so many steps, besides at the end and when the machine is taken away."""
    keep: int = 2
    """How many of the newest are kept."""
    best: bool = True
    """Also keep the best one, and make the finished model of it."""

    def __post_init__(self):
        _check(self, steps=(self.steps >= 1, "at least 1"), keep=(self.keep >= 1, "at least 1"))


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """What is written while a run goes on."""

    steps: int = 10
    """Write a line into metrics.jsonl after so many steps."""
    tensorboard: bool = False
    """Also write TensorBoard's event files; needs the extra `tensorboard`."""
    progress: bool | None = None
    """A progress bar; by default where the output is a terminal."""

    def __post_init__(self):
        _check(self, steps=(self.steps >= 1, "at least 1"))


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Several processes as one run. Cloud TPUs, Slurm and Open MPI are recognised by themselves."""

    distributed: bool = False
    """Join the other processes; implied by an address, or by JAX_COORDINATOR_ADDRESS."""
    coordinator_address: str | None = None
    """host:port of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    timeout: int = 300
    """Seconds to wait for the others at the start."""
    heartbeat: int = 100
    """Seconds after which a silent process counts as lost, and all of them stop."""

    def __post_init__(self):
        count, number = self.num_processes, self.process_id
        good = number is None or (count is not None and 0 <= number < count)
        _check(
            self,
            timeout=(self.timeout >= 1, "at least 1"),
            heartbeat=(self.heartbeat >= 1, "at least 1"),
            process_id=(good, f"a number from 0 to below num_processes ({count})"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has, whatever it trains."""

    output_dir: str = "runs/run"
    """Where everything about the run is written."""
    model: str = "bert-base-uncased"
    """A short name, a hub id, a directory, or the preset of a model from scratch."""
    seed: int = 0
    """Of new weights, the order of examples and dropout."""
    steps: int | None = None
    """Updates in all; by default as many as the epochs take."""
    epochs: float = 3.0
    """Passes over the training data, unless steps are given."""
    batch_size: int = 32
    """Examples in an update, over all devices and micro-batches."""
    accumulate: int = 1
    """Micro-batches in an update, one after the other: less memory, the same result."""
    group_by_length: bool = True
    """Make batches of examples of like length: less padding, in a little less random an order."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit shards over a mesh; pmap copies the model to every device."""
    resume: bool = False
    """Go on from the newest checkpoint in output_dir, if there is one."""
    overwrite: bool = False
    """Delete the run that output_dir holds, as soon as this one begins to train."""
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    execution: Execution = Execution()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    cluster: ClusterConfig = ClusterConfig()

    def __post_init__(self):
        _check(
            self,
            seed=(0 <= self.seed < 2**31, "0 <= seed < 2**31"),
            steps=(self.steps is None or self.steps >= 1, "at least 1"),
            epochs=(self.epochs > 0, "more than 0"),
            batch_size=(self.batch_size >= 1, "at least 1"),
            accumulate=(self.accumulate >= 1, "at least 1"),
            resume=(not (self.resume and self.overwrite), "--resume or --overwrite, not both"),
        )
        if self.batch_size % self.accumulate:
            raise RunError(
                f"batch_size {self.batch_size} does not divide into {self.accumulate} "
                "micro-batches of the same size; change batch_size or accumulate"
            )
        if self.execution.dtype == "float16" or self.execution.param_dtype != "float32":
            raise RunError(
                f"execution.dtype is {self.execution.dtype}, execution.param_dtype "
                f"{self.execution.param_dtype}; training expects float32 parameters, and float32 "
                "or bfloat16 activations: float16 needs a scaling of the loss that bfloat16 does "
                "not"
            )
