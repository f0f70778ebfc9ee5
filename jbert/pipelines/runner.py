"""Runs rows of unequal length through one compiled program a bucket."""

import collections
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jbert.compiled import Compiled
from jbert.inputs import check
from jbert.loaded import Bert
from jbert.models.base import PER_TOKEN
from jbert.pipelines.buckets import Batch, Buckets
from jbert.sharding import activations_on, batch_sharding

logger = logging.getLogger("jbert")

# Batches on their way at once: the next is prepared while one computes, and no more than these
# hold results on the device.
IN_FLIGHT = 4

# (module, params, inputs, extra, **settings) -> {name: array with a row for each input row}
Program = Callable[..., Mapping[str, Any]]
Rows = list[dict[str, np.ndarray]]


class Runner:
    """A program over a model, compiled once for each bucket and set of settings.

    `compilations` counts how often each was traced. `left` pads on the left instead of the right.
    """

    def __init__(
        self,
        bert: Bert,
        program: Program,
        buckets: Buckets,
        name: str,
        pad_id: int = 0,
        left: bool = False,
    ):
        self.bert, self.buckets = bert, buckets
        self.compilations: collections.Counter[tuple] = collections.Counter()
        self._program, self._name, self._left = program, name, left
        self._pad_id = pad_id
        self._compiled = Compiled(self._trace, ("settings",))
        # These two read their neighbours, padding included; as segments they do not.
        self._by_segment = bert.config.model_type in ("mobilebert", "convbert")

    def run(
        self,
        tokens: Mapping[str, np.ndarray],
        extra: Mapping[str, np.ndarray] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Rows:
        """The program's results for each row, in the rows' order.

        tokens:   the tokenizer's arrays (rows, width), padded on the right.
        extra:    more arrays with a row each, which the program takes as they are.
        settings: whatever decides what is compiled.
        """
        lengths = tokens["attention_mask"].sum(axis=1)
        results: Rows = [{}] * len(lengths)
        flying: collections.deque[tuple[Batch, Any]] = collections.deque()
        for batch in self.buckets.plan(lengths):
            if len(flying) == IN_FLIGHT:
                self._land(*flying.popleft(), results)
            flying.append((batch, self.call(batch, tokens, extra or {}, settings or {})))
        for batch, output in flying:
            self._land(batch, output, results)
        return results

    def call(self, batch: Batch, tokens, extra, settings) -> Mapping[str, Any]:
        """Starts one batch; its results are arrays still being computed."""
        # Rows of nothing but padding would be special cases; repeating one costs the same.
        rows = np.resize(batch.rows, batch.height)
        inputs = self._inputs(tokens, rows, batch.length)
        check(self.bert.config, **inputs)
        if self.bert.module.has_choices:
            inputs = {name: value[:, None] for name, value in inputs.items()}
        inputs = {name: self._placed(value) for name, value in inputs.items()}
        chosen = {name: self._placed(np.asarray(value)[rows]) for name, value in extra.items()}
        params = self.bert.as_read()
        run = self._compiled.of(self.bert.config.model_type, params, inputs)
        return run(params, inputs, chosen, settings=tuple(sorted(settings.items())))

    def _inputs(self, tokens, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        config = self.bert.config
        inputs = {}
        for name in PER_TOKEN:
            if name not in tokens or (
                name == "token_type_ids" and not getattr(config, "type_vocab_size", 0)
            ):
                continue
            fill = self._pad_id if name == "input_ids" else 0
            value = np.full((len(rows), length), fill, np.int32)
            width = min(length, tokens[name].shape[1])
            value[:, :width] = tokens[name][rows, :width]
            inputs[name] = value
        if self._left:
            shift = length - inputs["attention_mask"].sum(axis=1)
            order = (np.arange(length) - shift[:, None]) % length
            inputs = {name: np.take_along_axis(v, order, axis=1) for name, v in inputs.items()}
        if self._by_segment:
            inputs["segment_ids"] = inputs.pop("attention_mask")
        return inputs

    def _placed(self, value: np.ndarray) -> Any:
        if self.bert.mesh is None:
            return value
        return jax.device_put(
            value, batch_sharding(self.bert.mesh, self.bert.rules, value.shape[0])
        )

    def _trace(self, params, inputs, extra, *, settings):
        # Runs only while tracing, so it sees each compilation and nothing else.
        shape = inputs["input_ids"].shape
        key = (shape[0], shape[-1], settings, *(x.shape[1:] for x in extra.values()))
        self.compilations[key] += 1
        if self.compilations[key] == 1:
            logger.info("%s: compiling for %d rows of %d tokens", self._name, shape[0], shape[-1])
        elif self.compilations[key] == 2:
            logger.warning(
                "%s: compiling again for %d rows of %d tokens; were the parameters replaced by "
                "others of another dtype or place?", self._name, shape[0], shape[-1],
            )  # fmt: skip
        bert = self.bert
        with activations_on(bert.mesh, bert.rules):
            return self._program(bert.module, params, inputs, extra, **dict(settings))

    @staticmethod
    def _land(batch: Batch, output: Mapping[str, Any], results: Rows) -> None:
        host = {name: np.asarray(value) for name, value in jax.device_get(output).items()}
        for place, row in enumerate(batch.rows):
            results[row] = {name: value[place] for name, value in host.items()}


def batch_ways(bert: Bert) -> int:
    """Over how many devices a batch is split."""
    if bert.mesh is None:
        return 1
    axes = batch_sharding(bert.mesh, bert.rules).spec[0]
    names = (axes,) if isinstance(axes, str) else tuple(axes or ())
    ways = 1
    for name in names:
        ways *= bert.mesh.shape[name]
    return ways


def look_ahead(items: Any, size: int) -> Iterator[list[Any]]:
    """Windows of at most `size` items; what was read before an error is still answered."""
    iterator, error = iter(items), None
    while error is None:
        window: list[Any] = []
        try:
            while len(window) < size:
                window.append(next(iterator))
        except StopIteration:
            if window:
                yield window
            return
        except Exception as failed:
            error = failed
        if window:
            yield window
    raise error
