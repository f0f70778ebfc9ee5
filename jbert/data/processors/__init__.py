"""From tables to features, one processor a task."""

from jbert.data.processors.base import Predictor as Predictor
from jbert.data.processors.base import Processor as Processor
from jbert.data.processors.classification import Classification as Classification
from jbert.data.processors.masked_lm import Masked as Masked
from jbert.data.processors.masked_lm import MaskedLM as MaskedLM
from jbert.data.processors.multiple_choice import MultipleChoice as MultipleChoice
from jbert.data.processors.question_answering import QuestionAnswering as QuestionAnswering
from jbert.data.processors.token_classification import TokenClassification as TokenClassification

PROCESSORS: dict[str, type[Processor]] = {
    processor.task: processor
    for processor in (
        Classification,
        MaskedLM,
        MultipleChoice,
        QuestionAnswering,
        TokenClassification,
    )
}
