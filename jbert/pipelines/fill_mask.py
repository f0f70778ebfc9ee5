"""fill-mask: what stands where the text has [MASK]?"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbert.pipelines.base import Encoded, Options, Pipeline, check_count, text_of, whole

logger = logging.getLogger("jbert")


@dataclasses.dataclass(frozen=True)
class FillMaskOptions(Options):
    """top_k:      how many tokens to return for each mask.
    targets:    only these words are candidates, each standing for its first token.
    truncation: cut texts that are too long instead of refusing them.
    """

    top_k: int = 5
    targets: str | Sequence[str] | None = None
    truncation: bool = False

    def __post_init__(self):
        check_count("top_k", self.top_k)


class FillMask(Pipeline):
    """Texts with one mask or more in; for each mask a list of
    {"score", "token", "token_str", "sequence"}, the most probable first, out.

    A text with one mask gives its list, with several a list of lists. The head runs only at the
    masks, and only the best tokens leave the device.
    """

    name = "fill-mask"
    task = "masked_lm"
    also = ("pretraining",)
    options_class = FillMaskOptions

    @property
    def example(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tokenizer.mask_token

    def check(self, item: Any) -> str:
        return text_of(item)

    def encode(self, items: list[str], options: Any, numbers: list[int]) -> Encoded:
        tokens = self.tokenizer(
            items, max_length=self.limit if options.truncation else None,
            truncation=options.truncation,
        )  # fmt: skip
        masked = tokens["input_ids"] == self.tokenizer.mask_token_id
        counts = masked.sum(axis=1)
        if not counts.all():
            text = items[int((counts == 0).argmax())]
            raise ValueError(f"no {self.tokenizer.mask_token} in the text {text[:80]!r}")
        # To powers of two, so that a few numbers of masks are compiled and not every one.
        most = 1 << int(counts.max() - 1).bit_length()
        positions = np.argsort(~masked, axis=1, kind="stable")[:, :most].astype(np.int32)
        if positions.shape[1] < most:
            positions = np.pad(positions, ((0, 0), (0, most - positions.shape[1])))
        extra = {"positions": positions}
        # A table that was padded has rows which are no tokens.
        words = min(len(self.tokenizer), self.bert.config.vocab_size)
        settings = {"top_k": min(1 << (options.top_k - 1).bit_length(), words), "words": words}
        if options.targets is not None:
            targets = np.asarray(self._target_ids(options.targets), np.int32)
            extra["targets"] = np.tile(targets, (len(items), 1))
            settings["top_k"] = len(targets)
        notes = [
            {"ids": row[:n], "masks": np.flatnonzero(mask)}
            for row, n, mask in zip(
                tokens["input_ids"], tokens["attention_mask"].sum(axis=1), masked, strict=True
            )
        ]
        return whole(tokens, extra=extra, settings=settings, notes=notes)

    def _target_ids(self, targets: str | Sequence[str]) -> list[int]:
        targets = [targets] if isinstance(targets, str) else list(targets)
        vocab = self.tokenizer.get_vocab()
        ids = []
        for target in targets:
            if target not in vocab:
                pieces = self.tokenizer.encode(target, add_special_tokens=False)
                if not pieces:
                    logger.warning("fill-mask: target %r has no token and is left out", target)
                    continue
                token = self.tokenizer.convert_ids_to_tokens(pieces[0])
                logger.warning("fill-mask: target %r is no token; %r stands for it", target, token)
                ids.append(pieces[0])
            else:
                ids.append(vocab[target])
        if not ids:
            raise ValueError("targets has no word that the vocabulary knows")
        return sorted(set(ids))

    @staticmethod
    def program(module, params, inputs, extra, *, top_k, words):  # pyright: ignore
        logits = logits_at(module, params, inputs, extra["positions"])
        scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[..., :words]
        if "targets" in extra:
            scores = jnp.take_along_axis(scores, extra["targets"][:, None], axis=-1)
        values, tokens = jax.lax.top_k(scores, top_k)
        if "targets" in extra:
            tokens = jnp.take_along_axis(extra["targets"][:, None], tokens, axis=-1)
        return {"scores": values, "tokens": tokens}

    def answer(self, item: Any, rows: list[dict], notes: Sequence[Any], options: Any) -> Any:
        (row,), (note,) = rows, notes
        single = len(note["masks"]) == 1
        answers = []
        for place, mask in enumerate(note["masks"]):
            found = []
            for score, token in zip(row["scores"][place], row["tokens"][place], strict=True):
                ids = note["ids"].copy()
                ids[mask] = token
                # The other masks of the text must stay visible.
                sequence = self.tokenizer.decode(ids, skip_special_tokens=single)
                found.append({
                    "score": float(score), "token": int(token),
                    "token_str": self.tokenizer.decode([token]), "sequence": sequence,
                })  # fmt: skip
                if len(found) == options.top_k:
                    break
            answers.append(found)
        return answers[0] if single else answers


def logits_at(module, params, inputs, positions):
    """The masked-language-model logits at `positions` [b, m] alone: [b, m, v].

    The vocabulary's matrix product is a fifth of a base model's work and most of its output.
    """
    output = module.apply({"params": params}, **inputs, logits_at=positions)
    return output.prediction_logits if output.logits is None else output.logits
