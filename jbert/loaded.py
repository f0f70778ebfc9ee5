"""What `jbert.load` returns: a model with its parameters, tokenizer and devices."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jbert.compiled import Compiled
from jbert.config import ModelConfig
from jbert.execution import Execution
from jbert.heads import Output
from jbert.inputs import check
from jbert.models import architecture, model_class
from jbert.models.base import PER_TOKEN, Model, flatten_choices
from jbert.sharding import EVERYTHING, Rules, activations_on, batch_sharding
from jbert.stack import SCANNED
from jbert.trees import flatten, unflatten


@dataclasses.dataclass(frozen=True, eq=False)
class Bert:
    """A model ready to be called. `dataclasses.replace(bert, params=new)` is the same model with
    other parameters.

    config, task:  what the model is.
    module:        the flax module; `module.apply({"params": params}, …)` is the functional core.
    params:        plain nested dicts of arrays, on `mesh` if there is one.
    tokenizer:     a jbert.Tokenizer, or None where none was found.
    mesh, rules:   where parameters and batches lie.
    source:        where it was loaded from, with the revision.
    """

    config: ModelConfig
    module: Model
    params: Any
    tokenizer: Any = None
    task: str | None = None
    mesh: Mesh | None = None
    rules: str | Rules = EVERYTHING
    source: str | None = None
    _cast: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def execution(self) -> Execution:
        return self.module.execution

    def __call__(
        self,
        input_ids=None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **inputs: Any,
    ) -> Output:
        """The compiled forward pass, without dropout. Numpy or JAX arrays in, an Output out."""
        inputs = {"input_ids": input_ids, **inputs}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        self._check(inputs)
        params, inputs = self.as_read(), self._placed(inputs)
        return forward.of(self.config.model_type, params, inputs)(
            params,
            inputs,
            module=self.module,
            mesh=self.mesh,
            rules=_hashable(self.rules),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )

    def as_read(self) -> Any:
        """The parameters in the dtypes that layers read them in: cast once, not by every call.

        Where that is no other dtype these are `params` themselves, and otherwise a copy, kept
        until one of them is replaced. `param_dtype` spares the copy.
        """
        if jnp.dtype(self.execution.dtype).itemsize == 4:
            return self.params
        leaves, tree = jax.tree.flatten(self.params)
        if self._is_cast(leaves, tree):
            return self._cast["to"]
        # Another transformation's tracers, and numpy arrays, which may change in place.
        traced = jax.core.Tracer
        if not all(isinstance(x, jax.Array) and not isinstance(x, traced) for x in leaves):
            return self.params
        to = _cast_as_read(self.module, flatten(self.params))
        self._cast.update(leaves=leaves, tree=tree, to=to)
        return to

    def _is_cast(self, leaves: list[Any], tree: Any) -> bool:
        if not self._cast or tree != self._cast["tree"]:
            return False
        return all(map(operator.is_, leaves, self._cast["leaves"]))

    def init_cache(self, batch_size: int, max_length: int | None = None) -> Any:
        """An empty key-value cache, to pass to a decoder as `cache=`."""
        from jbert.models.bert import BertConfig, init_cache

        if not isinstance(self.config, BertConfig):
            raise ValueError(f"{self.config.model_type} has no decoder, so it takes no cache")
        length = max_length or self.config.max_position_embeddings
        return init_cache(self.config, batch_size, length, self.execution.dtype)

    def num_params(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def num_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))

    def _check(self, inputs: dict[str, Any]) -> None:
        if self.module.has_choices:
            flat, _ = flatten_choices({name: inputs.get(name) for name in PER_TOKEN})
            inputs = {**inputs, **flat}
        check(self.config, **inputs)

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs on the mesh: rows over the axes that carry examples, the rest everywhere."""
        if self.mesh is None:
            return inputs
        mesh = self.mesh

        def put(name: str, value: Any) -> Any:
            rows = np.shape(value)[0] if name in PER_TOKEN else 1
            return jax.device_put(value, batch_sharding(mesh, self.rules, rows))

        return {name: put(name, value) for name, value in inputs.items()}


def _forward(params, inputs, *, module, mesh, rules, output_hidden_states, output_attentions):
    with activations_on(mesh, rules if isinstance(rules, str) else dict(rules)):
        return module.apply(
            {"params": params},
            **inputs,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )


forward = Compiled(
    _forward, ("module", "mesh", "rules", "output_hidden_states", "output_attentions")
)


def _cast_as_read(module: Model, flat: dict[str, Any]) -> Any:
    boxes = flatten(abstract_params(module, boxed=True))
    wider: dict[str, str] = {}
    for path, leaf in flat.items():
        read_as = boxes[path].read_as if path in boxes else leaf.dtype.name
        if jnp.dtype(read_as).itemsize < leaf.dtype.itemsize:
            wider[path] = read_as
    places = {path: flat[path].sharding for path in wider}
    cast = jax.jit(lambda leaves: {path: x.astype(wider[path]) for path, x in leaves.items()},
                   out_shardings=places)  # fmt: skip
    return unflatten({**flat, **cast({path: flat[path] for path in wider})})


def _hashable(preset: str | Rules):
    return preset if isinstance(preset, str) else tuple(sorted(preset.items()))


# -- making one -----------------------------------------------------------------------------


def build_module(config: ModelConfig, task: str | None, execution: Execution) -> Model:
    execution.check_model_type(config.model_type)
    return model_class(config, task)(config, execution)


def decoder_config(config: ModelConfig, task: str | None) -> ModelConfig:
    """The configuration as a task needs it: a causal language model has a decoder's."""
    if task == "causal_lm" and "is_decoder" in {f.name for f in dataclasses.fields(config)}:
        return config.replace(is_decoder=True)
    return config


def dummy_inputs(module: Model) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (1, 1, 2) if module.has_choices else (1, 2)
    return {"input_ids": jax.ShapeDtypeStruct(shape, jnp.int32)}


def unrolled(module: Model) -> Model:
    """The same model with its layers one by one: the layout of every checkpoint."""
    return module.clone(execution=dataclasses.replace(module.execution, scan_layers=False))


def abstract_params(module: Model, boxed: bool = False) -> Any:
    """The parameters' shapes at no cost; boxed, with the names of their axes."""
    # Scanned, one layer is traced instead of all of them, which takes a fifth of the time. Of how
    # the module computes only the dtypes matter here: a parameter's, and that it is read in.
    dtypes = module.execution.dtype, module.execution.param_dtype
    scanned: Any = module.clone(execution=Execution(*dtypes, scan_layers=True))
    abstract = _traced_params(scanned)
    if not module.execution.scan_layers:
        abstract = _one_by_one(abstract)
    # Always a new tree: the one that is kept is nobody's to change.
    return jax.tree.map(lambda leaf: leaf, abstract) if boxed else nn.meta.unbox(abstract)


@functools.lru_cache(maxsize=64)
def _traced_params(module: Model) -> Any:
    # The key is made inside: outside it would be compiled and run.
    init: Any = lambda **inputs: module.init(jax.random.key(0), **inputs)  # noqa: E731
    return jax.eval_shape(init, **dummy_inputs(module))["params"]


def _one_by_one(params: Mapping[str, Any]) -> dict[str, Any]:
    """`unstack_layers` for abstract parameters with the names of their axes."""
    result: dict[str, Any] = {}
    for key, value in params.items():
        if key != SCANNED:
            result[key] = _one_by_one(value) if isinstance(value, Mapping) else value
            continue
        layer = jax.tree.map(_of_one_layer, value, is_leaf=_is_boxed)
        length = jax.tree.leaves(value)[0].shape[0]
        result |= {f"layer_{i}": layer for i in range(length)}
    return result


def _of_one_layer(leaf: Any) -> Any:
    value = nn.meta.unbox(leaf)
    one = jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
    return leaf.replace(value=one, names=leaf.names[1:]) if _is_boxed(leaf) else one


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def architecture_name(config: ModelConfig, task: str | None) -> str:
    """transformers' class name for a task, as config.json's `architectures` spells it."""
    if task == "causal_lm":
        return "BertLMHeadModel"
    return architecture(config.model_type).tasks[task].__name__
