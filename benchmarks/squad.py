"""Every question of a SQuAD file through the question-answering pipeline, and how long it took.

python benchmarks/squad.py dev-v2.0.json --vocab vocab.txt    # a tiny random model
python benchmarks/squad.py dev-v2.0.json --model DIR          # one of yours
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax

import jbert

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip


def questions(path: Path) -> Iterator[dict[str, str]]:
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield {"question": asked["question"], "context": paragraph["context"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", help="a directory or a hub id")
    parser.add_argument("--vocab", type=Path, help="of the tiny random model, without --model")
    parser.add_argument("--top_k", type=int, default=5)
    args = parser.parse_args()
    if args.model:
        bert = jbert.load(args.model, "question_answering")
    else:
        tokenizer = jbert.Tokenizer.from_vocab(args.vocab)
        config = jbert.BertConfig(vocab_size=len(tokenizer), **TINY)
        bert = jbert.from_config(config, "question_answering", tokenizer=tokenizer)
    asked = list(questions(args.file))
    ask = jbert.pipeline("question-answering", bert, handle_impossible_answer=True)
    start = time.perf_counter()
    answers = ask(asked, top_k=args.top_k)
    taken = time.perf_counter() - start
    for item, found in zip(asked, answers, strict=True):
        for answer in found:
            span = item["context"][answer["start"] : answer["end"]]
            if span != answer["answer"]:
                raise SystemExit(f"{item['question']!r}: {answer} is not in the context")
    compiled, device = len(ask.runner.compilations), jax.devices()[0].device_kind
    rate = len(asked) / taken
    print(f"{len(asked)} questions in {taken:.1f} s, {rate:.0f} a second, on {device}; "
          f"{compiled} programs compiled")  # fmt: skip


if __name__ == "__main__":
    main()
