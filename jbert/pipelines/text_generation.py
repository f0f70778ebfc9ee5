"""text-generation: what a BERT decoder would go on to write."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbert.models.bert import init_cache
from jbert.pipelines.base import Encoded, Options, Pipeline, check_count, text_of, whole


@dataclasses.dataclass(frozen=True)
class TextGenerationOptions(Options):
    """max_new_tokens: how much to write.
    do_sample:      draw tokens instead of taking the most probable one each time.
    temperature:    below 1 sharpens what is drawn from, above 1 flattens it.
    top_k:          draw from so many of the most probable tokens; 0 for all.
    top_p:          draw from the fewest tokens that have this much probability together.
    seed:           the same seed draws the same text for the same place in the inputs.
    eos_token_id:   stop there; by default what the configuration says, if anything.
    return_full_text: begin the answer with the prompt.
    add_special_tokens: put the prompt between [CLS] and [SEP], as the tokenizer does.
    """

    max_new_tokens: int = 20
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0
    eos_token_id: int | None = None
    return_full_text: bool = True
    add_special_tokens: bool = True

    def __post_init__(self):
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("top_k", self.top_k, 0)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r}; expected more than 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p!r}; expected more than 0, at most 1")


class TextGeneration(Pipeline):
    """Prompts in; [{"generated_text"}] out. Prompt and new tokens run in one compiled loop over a
    key-value cache, which ends early when every row has written the end token.
    """

    name = "text-generation"
    task = "causal_lm"
    options_class = TextGenerationOptions
    look_ahead = 256
    # Rows end together, so that each new token goes to one place of the cache in all of them.
    left = True

    def __init__(
        self,
        bert,
        tokenizer=None,
        *,
        max_new_tokens: int = TextGenerationOptions.max_new_tokens,
        **options,
    ):
        check_count("max_new_tokens", max_new_tokens)
        if max_new_tokens >= bert.config.max_position_embeddings:
            raise ValueError(
                f"max_new_tokens is {max_new_tokens}; with the prompt it must fit into the model's "
                f"{bert.config.max_position_embeddings} positions"
            )
        self._most_new = max_new_tokens
        super().__init__(bert, tokenizer, max_new_tokens=max_new_tokens, **options)

    def max_tokens(self) -> int:
        return self.bert.config.max_position_embeddings - self._most_new

    def check(self, item: Any) -> str:
        return text_of(item)

    def encode(self, items: list[str], options: Any, numbers: list[int]) -> Encoded:
        if options.max_new_tokens > self._most_new:
            raise ValueError(
                f"max_new_tokens is {options.max_new_tokens}, more than the {self._most_new} this "
                "pipeline was made for; make it with a larger max_new_tokens"
            )
        tokens = self.tokenizer(items, add_special_tokens=options.add_special_tokens)
        if not tokens["attention_mask"].any(axis=1).all():
            raise ValueError("the prompt has no token")
        eos = options.eos_token_id
        eos = getattr(self.bert.config, "eos_token_id", None) if eos is None else eos
        extra = {"number": np.asarray(numbers, np.int32)}
        settings: dict[str, Any] = {
            "new": options.max_new_tokens,
            "eos": -1 if eos is None else int(eos),
            "drawn": None,
        }
        if options.do_sample:
            settings["drawn"] = (
                float(options.temperature), min(options.top_k, self.bert.config.vocab_size),
                float(options.top_p),
            )  # fmt: skip
            extra["seed"] = np.full(len(items), options.seed, np.int32)
        return whole(tokens, extra=extra, settings=settings)

    @staticmethod
    def program(module, params, inputs, extra, *, new, eos, drawn):  # pyright: ignore
        keys = None
        if drawn is not None:
            # A key for each input, so that what is drawn does not depend on the batch.
            keys = jax.vmap(lambda s, n: jax.random.fold_in(jax.random.key(s), n))(
                extra["seed"], extra["number"]
            )
        return generate(module, params, inputs, keys, new, eos, drawn)

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        ids = rows[0]["tokens"][: int(rows[0]["written"])]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        prompt = item["text"] if isinstance(item, Mapping) else item
        return [{"generated_text": prompt + text if options.return_full_text else text}]


def generate(module, params, inputs, keys, new: int, eos: int, drawn) -> dict[str, Any]:
    """`new` tokens after prompts padded on the left: {"tokens" [b, new], "written" [b]}."""
    mask = inputs["attention_mask"]
    rows, length = mask.shape
    config = module.config.replace(max_position_embeddings=max(
        length + new, module.config.max_position_embeddings))  # fmt: skip
    cache = init_cache(config, rows, length + new, module.execution.dtype)
    used = mask.sum(axis=1, dtype=jnp.int32)
    positions = jnp.maximum(jnp.arange(length)[None] - (length - used)[:, None], 0)

    def step(ids, attention_mask, position_ids, cache):
        output = module.apply(
            {"params": params}, ids, attention_mask=attention_mask, position_ids=position_ids,
            cache=cache,
        )  # fmt: skip
        return output.logits[:, -1].astype(jnp.float32), output.cache

    def choose(logits, at):
        if drawn is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        at_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, at)
        return jax.vmap(jax.random.categorical)(at_keys, restrict(logits, *drawn)).astype(jnp.int32)

    def unfinished(state):
        return (state["at"] < new) & ~state["done"].all()

    def write(state):
        at = state["at"]
        token = jnp.where(state["done"], 0, choose(state["logits"], at))
        tokens = state["tokens"].at[:, at].set(token)
        written = state["written"] + ~state["done"]
        done = state["done"] | (token == eos)
        visible = jnp.ones((rows, 1), jnp.int32)
        logits, cache = step(token[:, None], visible, (used + at)[:, None], state["cache"])
        return {"at": at + 1, "tokens": tokens, "written": written, "done": done,
                "logits": logits, "cache": cache}  # fmt: skip

    logits, cache = step(inputs["input_ids"], mask, positions, cache)
    start = {
        "at": jnp.zeros((), jnp.int32),
        "tokens": jnp.zeros((rows, new), jnp.int32),
        "written": jnp.zeros(rows, jnp.int32),
        "done": jnp.zeros(rows, bool),
        "logits": logits,
        "cache": cache,
    }
    end = jax.lax.while_loop(unfinished, write, start)
    return {"tokens": end["tokens"], "written": end["written"]}


def restrict(logits: jax.Array, temperature: float, top_k: int, top_p: float) -> jax.Array:
    """Logits [b, v] with those that may not be drawn at -inf, as transformers' warpers do it."""
    logits = logits / temperature
    if top_k:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        shares = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the more probable ones have less than top_p: the first always does.
        stays = jnp.cumsum(shares, axis=-1) - shares < top_p
        least = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
