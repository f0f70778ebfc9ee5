"""What each task does with its data: how rows become features, outputs predictions, and both a
score. One class a task, found by the task's name."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from jbert.data.glue import GLUE
from jbert.data.processors import (
    Classification,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    TokenClassification,
)
from jbert.data.table import Table
from jbert.heads import Output
from jbert.losses import IGNORE
from jbert.metrics import (
    accuracy,
    confusion_table,
    entity_metrics,
    entity_table,
    f1,
    glue_metrics,
    matthews,
    pearson,
    per_label_table,
    perplexity,
    spearman,
    squad_v1,
    squad_v2,
)
from jbert.training.evaluation import Predictions
from jbert.training.step import Batch

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """processor: fitted to the training split, for every split.
    glue:      the GLUE task whose metrics are reported, if it is one.
    scheme:    how entities are counted, see jbert.metrics.entity_scores.
    """

    processor: Any
    glue: str | None = None
    scheme: str = "default"

    fields: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "accuracy"

    @property
    def main_metric(self) -> str:
        return GLUE[self.glue].metrics[0] if self.glue else self.metric

    def head(self) -> dict[str, Any]:
        """What `jbert.load` is told about the head."""
        return {}

    def in_order(self, labels: tuple[str, ...] | None) -> Self:
        """The same classes numbered as a model has learned them; others stay as they are."""
        return self

    def predict(self, output: Output, batch: Batch) -> dict[str, Any]:
        """What is kept of each row's outputs."""
        return {name: output[name].astype(jnp.float32) for name in self.fields}

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        raise NotImplementedError

    def tables(self, table: Table, features: Any, found: Predictions) -> dict[str, Any]:
        """What the report shows besides figures."""
        return {}

    def predictions(self, table: Table, features: Any, found: Predictions) -> list[dict[str, Any]]:
        """A line for each row of the table."""
        return self.processor.decode(table, features, found)


class _Labelled(Recipe):
    def in_order(self, labels: tuple[str, ...] | None) -> Self:
        mine = self.processor.labels
        if labels is None or mine is None or sorted(labels) != sorted(mine):
            return self
        processor = dataclasses.replace(self.processor, labels=labels)
        return dataclasses.replace(self, processor=processor)

    def head(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.processor.labels))}


class SequenceClassification(_Labelled):
    processor: Classification

    @property
    def main_metric(self) -> str:
        if self.processor.problem_type == "regression":
            return "pearson"
        if self.processor.problem_type == "multi_label_classification":
            return "f1"
        return super().main_metric

    def head(self) -> dict[str, Any]:
        kind = {"problem_type": self.processor.problem_type}
        if self.processor.problem_type == "regression":
            return kind | {"num_labels": 1}
        return kind | super().head()

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        logits, labels = found["logits"], features.targets["labels"]
        if self.processor.problem_type == "regression":
            values = logits.reshape(-1)
            if self.glue:
                return glue_metrics(self.glue, values, labels)
            error = float(np.mean(np.square(values.astype(np.float64) - labels)))
            return {
                "pearson": pearson(values, labels),
                "spearmanr": spearman(values, labels),
                "mse": error,
            }
        if self.processor.problem_type == "multi_label_classification":
            return _multi_label(logits > 0, labels > 0.5)
        chosen, count = logits.argmax(axis=-1), logits.shape[-1]
        if self.glue:
            # A model may number the classes in another order than the task.
            names = GLUE[self.glue].label_names
            number = np.array([names.index(name) for name in self.processor.labels or ()])
            return glue_metrics(self.glue, number[chosen], number[labels])
        figures = {"accuracy": accuracy(chosen, labels, count)}
        if count == 2:
            both = {"f1": f1(chosen, labels), "matthews": matthews(chosen, labels, 2)}
            return figures | both
        return figures | {"macro_f1": f1(chosen, labels, "macro", count)}

    def tables(self, table: Table, features: Any, found: Predictions) -> dict[str, Any]:
        if self.processor.problem_type != "single_label_classification":
            return {}
        chosen, labels = found["logits"].argmax(axis=-1), features.targets["labels"]
        names = self.processor.labels or ()
        return {
            "confusion": confusion_table(chosen, labels, names),
            "per_label": per_label_table(chosen, labels, names),
        }


def _multi_label(chosen: np.ndarray, labels: np.ndarray) -> Figures:
    """Micro-averaged over all pairs of a text and a label; `accuracy` is of whole rows."""
    both = int((chosen & labels).sum())
    total = int(chosen.sum()) + int(labels.sum())
    rows = float((chosen == labels).all(axis=-1).mean())
    return {"f1": 2 * both / total if total else 0.0, "accuracy": rows}


class Choice(Recipe):
    processor: MultipleChoice

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        logits = found["logits"]
        chosen = logits.argmax(axis=-1)
        return {"accuracy": accuracy(chosen, features.targets["labels"], logits.shape[-1])}


class Tags(_Labelled):
    processor: TokenClassification
    metric = "f1"

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        tags, labels = self._tags(table, features, found)
        pairs = [pair for row in zip(tags, labels, strict=True) for pair in zip(*row, strict=True)]
        right = sum(one == other for one, other in pairs) / max(len(pairs), 1)
        return {**entity_metrics(tags, labels, self.scheme), "accuracy": right}

    def tables(self, table: Table, features: Any, found: Predictions) -> dict[str, Any]:
        return {"entities": entity_table(*self._tags(table, features, found), self.scheme)}

    def _tags(self, table: Table, features: Any, found: Predictions) -> tuple[list, list]:
        rows = self.predictions(table, features, found)
        return [row["tags"] for row in rows], self.processor.references(table)


class Answers(Recipe):
    processor: QuestionAnswering
    fields = ("start_logits", "end_logits")
    metric = "f1"

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        rows = self.predictions(table, features, found)
        # By their places: only SQuAD's own questions have ids.
        names = [str(number) for number in range(len(rows))]
        answers = {name: row["answer"] for name, row in zip(names, rows, strict=True)}
        texts = (list(each["text"]) for each in table.columns["answers"])
        right = dict(zip(names, texts, strict=True))
        if all(right.values()):
            return squad_v1(answers, right)
        scores = {name: row["no_answer_score"] for name, row in zip(names, rows, strict=True)}
        # With a threshold of its own the prediction already says "" where that is the answer.
        return squad_v2(answers, right, scores, threshold=float("inf"))


class Hidden(Recipe):
    processor: MaskedLM
    metric = "perplexity"

    def predict(self, output: Output, batch: Batch) -> dict[str, Any]:
        if "labels" not in batch:
            return {}
        labels, chosen = batch["labels"], jnp.argmax(output.logits, axis=-1)
        return {
            "right": jnp.sum(chosen == labels, axis=-1),
            "hidden": jnp.sum(labels != IGNORE, axis=-1),
        }

    def score(self, table: Table, features: Any, found: Predictions, loss: float) -> Figures:
        right, hidden = int(found["right"].sum()), int(found["hidden"].sum())
        return {"perplexity": perplexity(loss), "accuracy": right / max(hidden, 1)}

    def predictions(self, table: Table, features: Any, found: Predictions) -> list[dict[str, Any]]:
        return []


RECIPES: Mapping[str, type[Recipe]] = {
    Classification.task: SequenceClassification,
    TokenClassification.task: Tags,
    QuestionAnswering.task: Answers,
    MultipleChoice.task: Choice,
    MaskedLM.task: Hidden,
}
