"""The teacher of a run: found and compared with its student before any weight is read."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbert.load import default_task, load, read_config, read_tokenizer
from jbert.loaded import Bert
from jbert.locate import locate
from jbert.restore import HeadWarning
from jbert.tokenizer import Tokenizer
from jbert.training.config import RunError
from jbert.training.distill.config import DistillConfig, TransferConfig
from jbert.training.distill.layers import Pairs, pair_layers
from jbert.training.distill.objective import MAPPING, OF_TOKENS, TEACHER
from jbert.training.distill.progress import Turns
from jbert.training.optimizer import Flat
from jbert.training.start import Start, labels_of
from jbert.trees import flatten

# Tasks that a model with this other one can teach, by its masked-LM head.
_ALSO = {"masked_lm": ("pretraining",), "pretraining": ("masked_lm",)}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What is known of a teacher before its weights are read.

    task:   that it is loaded with.
    labels: the names of its classes in their order; None without names.
    pairs:  the layers of student and teacher that are compared.
    turns:  of the student's layers, where they learn one after the other.
    """

    run: DistillConfig
    config: Any
    task: str
    labels: tuple[str, ...] | None
    pairs: Pairs
    turns: Turns | None

    def reader(self, tokenizer: Tokenizer) -> Tokenizer:
        """The student's tokenizer, with token types if the teacher reads them: DistilBERT, which
        does not, may have a BERT for a teacher."""
        types = getattr(self.config, "type_vocab_size", 0) > 1
        if tokenizer.options.token_type_ids or not types:
            return tokenizer
        options = dataclasses.replace(
            tokenizer.options, token_type_ids=True, model_max_length=tokenizer.model_max_length
        )
        return Tokenizer(tokenizer.backend, options)

    def model(self, mesh: Mesh, rules: str) -> Bert:
        """The teacher on its mesh, in float32: a student may start from it."""
        execution = dataclasses.asdict(self.run.execution)
        options: dict[str, Any] = {**execution, "remat": "none", "dtype": self.run.teacher.dtype}
        options |= {"param_dtype": "float32", "mesh": mesh, "rules": rules}
        name = self.run.teacher.model
        with warnings.catch_warnings():
            # Its predictions are either asked for, and have to be there, or never looked at.
            warnings.simplefilter("error" if self.run.transfer.soft else "ignore", HeadWarning)
            try:
                return load(name, self.task, **options)
            except HeadWarning as error:
                raise RunError(f"teacher.model {_no_predictions(name, self.task)}") from error

    def fixed(self, bert: Bert) -> Flat:
        """Its parameters as a step reads them."""
        dtype = jnp.dtype(self.run.teacher.param_dtype)
        return {TEACHER + path: leaf.astype(dtype) for path, leaf in flatten(bert.params).items()}

    def classes(self, student: Sequence[str] | None) -> tuple[int, ...] | None:
        """For each class of the student its number here; None where they are numbered alike."""
        if student is None or self.labels is None:
            return None
        order = tuple(self.labels.index(label) for label in student)
        return None if order == tuple(range(len(order))) else order


def find_teacher(run: DistillConfig, student: Start, task: str, length: int) -> Teacher:
    """The teacher of a student, or an error that says why it cannot be.

    length: the most tokens of a row.
    """
    name = run.teacher.model
    path, _ = locate(name)
    place = path if path.is_dir() else path.parent
    config: Any = read_config(place, path)
    sizes: Any = student.config
    found = default_task(path)
    # What does not say its task may have the head all the same.
    if run.transfer.soft and found not in (None, task, *_ALSO.get(task, ())):
        raise RunError(f"teacher.model {_no_predictions(name, task)}; it was trained for {found}")
    check_vocabulary(name, config, read_tokenizer(place, config), student)
    check_sizes(name, config, sizes, run.transfer, length)
    pairs: Pairs = ()
    if run.transfer.of_pairs:
        depths = sizes.num_hidden_layers, config.num_hidden_layers
        pairs = pair_layers(run.transfer.layers, *depths)
    turns = None
    if run.progress.layer_by_layer:
        turns = Turns(run.progress, run.steps or 0, sizes.num_hidden_layers)
    # What the head for the next sentence says, nobody asks.
    chosen = "masked_lm" if task in OF_TOKENS else task
    return Teacher(run, config, chosen, labels_of(config), pairs, turns)


def _no_predictions(name: str, task: str) -> str:
    return f"{name} has no predictions of {task}: take a teacher of this task, or transfer.soft=0"


def check_vocabulary(name: str, config: Any, tokenizer: Tokenizer | None, student: Start) -> None:
    """Both read the same ids, and have to mean the same tokens by them."""
    if config.vocab_size != student.config.vocab_size:
        raise RunError(
            f"teacher.model {name} has a vocabulary of {config.vocab_size}, the student one of "
            f"{student.config.vocab_size}; expected the same. Give the student the teacher's "
            "tokenizer: --start.tokenizer"
        )
    if tokenizer is None:
        return
    theirs, mine = tokenizer.get_vocab(), student.tokenizer.get_vocab()
    if theirs != mine:
        some = sorted(token for token in theirs.keys() | mine.keys()
                      if theirs.get(token) != mine.get(token))  # fmt: skip
        raise RunError(
            f"teacher.model {name} and the student have different vocabularies: {len(some)} tokens "
            f"such as {some[0]!r} have other numbers, or none; expected the same. Give the student "
            "the teacher's tokenizer: --start.tokenizer"
        )


def check_sizes(
    name: str, teacher: Any, student: Any, transfer: TransferConfig, length: int
) -> None:
    if teacher.max_position_embeddings < length:
        raise RunError(
            f"teacher.model {name} has {teacher.max_position_embeddings} positions, but rows have "
            f"up to {length} tokens; expected shorter rows, or a teacher with as many positions"
        )
    compared = transfer.of_layers or transfer.cosine or transfer.embeddings
    if compared and teacher.hidden_size < student.hidden_size:
        raise RunError(
            f"teacher.model {name} is {teacher.hidden_size} wide, the student "
            f"{student.hidden_size}: what is wider cannot be told by what is narrower; expected a "
            "teacher at least as wide, or transfer.cosine, hidden, means, variances, embeddings = 0"
        )
    heads = student.attention_heads, teacher.attention_heads
    if transfer.attention and transfer.heads == "each" and heads[0] != heads[1]:
        raise RunError(
            f"the student has {heads[0]} attention heads, teacher.model {name} {heads[1]}; head by "
            "head they can only be compared if there are as many in both: transfer.heads='mean' "
            "compares the means of all"
        )
    distil = student.model_type == "distilbert"
    field = "attention_dropout" if distil else "attention_probs_dropout_prob"
    if transfer.attention and getattr(student, field):
        raise RunError(
            f"{field} of the student is {getattr(student, field)}; attention maps with weights "
            "dropped out cannot be compared with the teacher's: expected "
            f"--start.overrides.{field} 0.0"
        )


def new_mapping(
    transfer: TransferConfig, student: Any, teacher: Any, mesh: Mesh, seed: int
) -> Flat:
    """Projections of the student's hidden states to the teacher's width, where they differ."""
    if student.hidden_size == teacher.hidden_size:
        return {}
    wanted = {
        "cosine": transfer.cosine, "hidden": transfer.of_layers, "embeddings": transfer.embeddings,
    }  # fmt: skip
    names = [name for name, there in wanted.items() if there]
    shape = student.hidden_size, teacher.hidden_size

    def make(key: jax.Array) -> Flat:
        keys = jax.random.split(key, len(names))
        # Such that what comes out is as large as what goes in.
        kernels = [jax.random.normal(one, shape) * shape[0] ** -0.5 for one in keys]
        found = {f"{MAPPING}{name}/kernel": k for name, k in zip(names, kernels, strict=True)}
        return found | {f"{MAPPING}{name}/bias": jnp.zeros(shape[1]) for name in names}

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(make, out_shardings=everywhere)(jax.random.key(seed)) if names else {}
