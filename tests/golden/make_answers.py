"""Writes what transformers 4's question-answering pipeline answers; 5 has none.

    python tests/golden/make_answers.py    # with transformers 4.57.6 and torch installed

As in make_golden.py no weights are stored: both sides fill them from their names.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
VOCAB = HERE.parent / "tokenizer" / "vocab-uncased.txt"
LENGTH = 48
FIELDS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 20, "max_position_embeddings": LENGTH}  # fmt: skip
CONTEXT = (
    "The storm broke the lamp. For nine nights the keeper burned oil in a bowl, and for nine "
    "nights no ship was lost. On the tenth night a captain climbed the stairs, soaked to the "
    "bone, and asked to see the notebook. A café in Montréal served crème brûlée, the captain said."
)
QUESTIONS = ["Who climbed the stairs?", "What did the keeper burn for nine nights?", "café?"]
OPTIONS = [
    {"doc_stride": 8},
    {"doc_stride": 8, "top_k": 4},
    {"doc_stride": 2, "top_k": 3, "max_answer_len": 4},
    {"doc_stride": 12, "top_k": 3, "align_to_words": False},
    {"doc_stride": 8, "top_k": 3, "handle_impossible_answer": True},
    {"doc_stride": 8, "max_seq_len": 30, "top_k": 2},
    {},
]


def main() -> None:
    import make_golden
    import torch
    import transformers

    tokenizer = transformers.BertTokenizerFast(str(VOCAB), model_max_length=LENGTH)
    config = transformers.BertConfig(vocab_size=len(tokenizer), **FIELDS)
    model = transformers.BertForQuestionAnswering(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = make_golden.values(name, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    pipe = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
    answers = [
        [pipe(question=question, context=CONTEXT, **options) for question in QUESTIONS]
        for options in OPTIONS
    ]
    origin = {"transformers": transformers.__version__, "torch": torch.__version__}
    content = json.dumps({"origin": origin, "answers": answers}, indent=1, ensure_ascii=False)
    (HERE / "answers.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
