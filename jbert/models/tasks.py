"""The task models that differ between architectures in nothing but their encoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jbert.dropout import Dropout
from jbert.heads import Discriminator, Output
from jbert.inputs import Inputs
from jbert.layers import Dense
from jbert.models.base import Model


class ClassifyingModel(Model):
    """A model whose last step is one dense layer called `classifier`."""

    def classify(self, x, features: int):
        stddev = self.config.initializer_range
        return Dense(features, "inner", stddev, self.execution.wide(), name="classifier")(x)

    def drop(self, x, rate: float, inputs: Inputs):
        return Dropout(rate, deterministic=inputs.context.deterministic)(x)


class ForTokenClassification(ClassifyingModel):
    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        output = self.encode(inputs)
        x = self.drop(output.last_hidden_state, self.config.head_dropout, inputs)
        return output.headed(logits=self.classify(x, self.config.num_labels))


class ForSequenceClassification(ClassifyingModel):
    """Classifies `summary(output)`: by default the dropped-out pooler output."""

    needs_pooler = True

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        output = self.encode(inputs, pooler=self.needs_pooler)
        x = self.summary(output, inputs)
        return output.headed(logits=self.classify(x, self.num_outputs()))

    def summary(self, output: Output, inputs: Inputs):
        return self.drop(output.pooler_output, self.config.head_dropout, inputs)

    def num_outputs(self) -> int:
        return self.config.num_labels


class ForMultipleChoice(ForSequenceClassification):
    """One logit for each choice."""

    has_choices = True

    def num_outputs(self) -> int:
        return 1


class ForQuestionAnswering(ClassifyingModel):
    """The first and the last token of the answer."""

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        output = self.encode(inputs)
        x = self.before_span(output.last_hidden_state, inputs)
        stddev = self.config.initializer_range
        logits = Dense(2, "inner", stddev, self.execution.wide(), name="qa_outputs")(x)
        return output.headed(start_logits=logits[..., 0], end_logits=logits[..., 1])

    def before_span(self, hidden, inputs: Inputs):
        return hidden


class ForReplacedTokenDetection(Model):
    """Which tokens did a generator replace? One logit for each token."""

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        c, output = self.config, self.encode(inputs)
        head = Discriminator(
            c.hidden_size, c.hidden_act, c.initializer_range, self.execution, name="discriminator"
        )
        return output.headed(logits=head(output.last_hidden_state))


class ForNextSentencePrediction(Model):
    """Does the second segment follow the first? Label 0 says that it does."""

    @nn.compact
    def forward(self, inputs: Inputs) -> Output:
        output = self.encode(inputs, pooler=True)
        return output.headed(logits=self.relate(output))

    def relate(self, output: Output):
        stddev = self.config.initializer_range
        dense = Dense(2, "inner", stddev, self.execution.wide(), name="seq_relationship")
        return dense(output.pooler_output)


class ForMaskedLM(Model):
    """Logits over the vocabulary, at every position or at those that are asked for."""

    fills_in = True

    @nn.compact
    def forward(self, inputs: Inputs, hidden=None) -> Any:
        """The output; of `hidden`, what an encoder has given before, only the logits."""
        encoder = self.make_encoder()
        if hidden is not None:
            return self.predict(encoder, hidden)
        output = encoder.forward(inputs)
        return output.headed(**self.fill_in(encoder, output, inputs, "logits"))

    def fill_in(self, encoder, output: Output, inputs: Inputs, name: str) -> dict[str, Any]:
        """Logits under that name, or the losses of `targets`."""
        hidden = output.last_hidden_state
        if inputs.logits_at is not None:
            hidden = jnp.take_along_axis(hidden, inputs.logits_at[..., None], axis=1)
        found = self.predict(encoder, hidden, inputs.targets)
        return {name if inputs.targets is None else "token_losses": found}

    def predict(self, encoder, hidden, targets=None):
        raise NotImplementedError


class ForPreTraining(ForMaskedLM, ForNextSentencePrediction):
    """BERT's two objectives at once: masked tokens and the next sentence."""

    @nn.compact
    def forward(self, inputs: Inputs, hidden=None) -> Any:
        encoder = self.make_encoder(pooler=True)
        if hidden is not None:
            return self.predict(encoder, hidden)
        output = encoder.forward(inputs)
        return output.headed(
            seq_relationship_logits=self.relate(output),
            **self.fill_in(encoder, output, inputs, "prediction_logits"),
        )
