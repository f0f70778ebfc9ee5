"""The engine behind the name tables: Hugging Face's weight names to jbert's paths, and back."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """How an array is laid out on either side; `to_jbert` is told the shape it must arrive at."""

    to_jbert: Callable[[np.ndarray, Shape], np.ndarray]
    to_hf: Callable[[np.ndarray], np.ndarray]

    def hf_shape(self, shape: Shape) -> Shape:
        """The shape on Hugging Face's side; computed on a view that occupies no memory."""
        return self.to_hf(np.broadcast_to(np.float32(0), shape)).shape


SAME = Transform(lambda x, s: x, lambda x: x)
TRANSPOSED = Transform(lambda x, s: x.T, lambda x: x.T)
# A linear layer's weight; in blocks (ConvBERT's grouped layers) the reference stores it as we do.
KERNEL = Transform(
    lambda x, s: x if len(s) == 3 else x.T,
    lambda x: x if x.ndim == 3 else x.T,
)
HEADS_IN = Transform(lambda x, s: x.T.reshape(s), lambda x: x.reshape(x.shape[0], -1).T)
HEADS_OUT = Transform(lambda x, s: x.T.reshape(s), lambda x: x.reshape(-1, x.shape[-1]).T)
HEADS_BIAS = Transform(lambda x, s: x.reshape(s), lambda x: x.reshape(-1))
# torch.nn.Conv1d weights are (out, in / groups, taps).
DEPTHWISE = Transform(lambda x, s: x[:, 0, :].T, lambda x: x.T[:, None, :])
POINTWISE = Transform(
    lambda x, s: x[:, :, 0].T.reshape(s), lambda x: x.reshape(x.shape[0], -1).T[..., None]
)
COLUMN = Transform(lambda x, s: x[:, 0].reshape(s), lambda x: x.reshape(-1, 1))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One weight: its Hugging Face name, its path here, and the layout change between them.

    "{i}" stands for the number of a layer and "{j}" for one of several blocks inside it.
    `copies` are further names under which a file may hold the same values.
    """

    hf: str
    path: str
    transform: Transform = SAME
    copies: tuple[str, ...] = ()

    def at(self, i: int, j: int) -> "Rule":
        fill = lambda text: text.replace("{i}", str(i)).replace("{j}", str(j))  # noqa: E731
        return Rule(fill(self.hf), fill(self.path), self.transform, tuple(map(fill, self.copies)))


def dense(hf: str, path: str, kernel: Transform = KERNEL) -> tuple[Rule, Rule]:
    return Rule(f"{hf}.weight", f"{path}/kernel", kernel), Rule(f"{hf}.bias", f"{path}/bias")


def heads_in(hf: str, path: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{hf}.weight", f"{path}/kernel", HEADS_IN),
        Rule(f"{hf}.bias", f"{path}/bias", HEADS_BIAS),
    )


def heads_out(hf: str, path: str) -> tuple[Rule, Rule]:
    return dense(hf, path, HEADS_OUT)


def norm(hf: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{hf}.weight", f"{path}/scale"), Rule(f"{hf}.bias", f"{path}/bias")


def table(hf: str, path: str) -> tuple[Rule]:
    return (Rule(f"{hf}.weight", f"{path}/embedding"),)


@dataclasses.dataclass(frozen=True)
class NameTable:
    """All the weights of one architecture, in Hugging Face's words and in ours.

    prefix:  what a model with a head puts before its encoder's names, "bert".
    encoder: the encoder; paths are relative to it.
    pooler:  the encoder's pooler, which some heads leave out.
    heads:   for each task, the head's own weights.
    """

    prefix: str
    encoder: tuple[Rule, ...]
    pooler: tuple[Rule, ...]
    heads: Mapping[str, tuple[Rule, ...]]

    def rules(self, task: str | None, paths: Mapping[str, Any]) -> list[Rule]:
        """The rules of a model with these parameter paths, numbers filled in, prefixes put on."""
        of_encoder = [*self.encoder, *self.pooler]
        if task is not None:
            of_encoder = [
                Rule(f"{self.prefix}.{r.hf}", f"encoder/{r.path}", r.transform,
                     tuple(f"{self.prefix}.{copy}" for copy in r.copies))
                for r in of_encoder
            ]  # fmt: skip
        found = {}
        for rule in [*of_encoder, *self.heads.get(task or "", ())]:
            for concrete in _numbered(rule, paths):
                found[concrete.path] = concrete
        uncovered = sorted(set(paths) - set(found))
        if uncovered:
            raise LookupError(f"no rule in the name table of {self.prefix!r} for {uncovered}")
        return [found[path] for path in paths]


def _numbered(rule: Rule, paths: Mapping[str, Any]) -> Iterator[Rule]:
    """The rule with its numbers filled in, for each parameter it matches."""
    if "{" not in rule.path:
        if rule.path in paths:
            yield rule
        return
    pattern = re.compile(
        re.escape(rule.path).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    )
    for path in paths:
        if match := pattern.fullmatch(path):
            numbers = match.groupdict()
            yield rule.at(int(numbers["i"]), int(numbers.get("j") or 0))
