"""Metrics, counted as the published scorers count them, in numpy alone.

Predictions come first and labels second everywhere. Results are python floats, not rounded: SQuAD's
are percentages, as its scripts print them, and the rest are fractions. What would be divided by
zero is 0.0. Input that cannot be scored is a `MetricError`.
"""

from jbert.metrics.checks import MetricError
from jbert.metrics.classification import accuracy, f1, matthews
from jbert.metrics.correlation import pearson, spearman
from jbert.metrics.entities import entity_metrics, entity_scores, entity_table, find_entities
from jbert.metrics.glue import GLUE_TASKS, glue_metrics
from jbert.metrics.language import perplexity
from jbert.metrics.selection import greater_is_better
from jbert.metrics.squad import squad_v1, squad_v2
from jbert.metrics.tables import confusion_matrix, confusion_table, per_label_table

__all__ = [
    "GLUE_TASKS",
    "MetricError",
    "accuracy",
    "confusion_matrix",
    "confusion_table",
    "entity_metrics",
    "entity_scores",
    "entity_table",
    "f1",
    "find_entities",
    "glue_metrics",
    "greater_is_better",
    "matthews",
    "pearson",
    "per_label_table",
    "perplexity",
    "spearman",
    "squad_v1",
    "squad_v2",
]
