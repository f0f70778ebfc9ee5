"""text-generation, against a loop that runs the whole text again for every token."""

import jax.numpy as jnp
import numpy as np
import pytest
from pipeline_models import close, model, pipe, ragged, tokenizer

from jbert.pipelines import PipelineError
from jbert.pipelines.text_generation import restrict

NEW = 6


@pytest.fixture(scope="module")
def write():
    return pipe("text-generation", model("bert", "causal_lm"), max_new_tokens=NEW)


def greedy(bert, ids, new, eos=None):
    """The most probable token each time; one shape, as what comes after is not seen."""
    ids = list(ids)
    for _ in range(new):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(ids)] = ids
        ids.append(int(np.argmax(bert(padded).logits[0, len(ids) - 1])))
        if ids[-1] == eos:
            break
    return ids


def naive(bert, prompt, new=NEW, eos=None, special=True):
    start = tokenizer().encode(prompt, add_special_tokens=special)
    ids = greedy(bert, start, new, eos)[len(start) :]
    return ids, prompt + tokenizer().decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("positions", ["absolute", "relative_key"])
def test_greedy_text_is_that_of_a_naive_loop(write, positions):
    if positions != "absolute":
        bert = model("bert", "causal_lm", position_embedding_type=positions)
        write = pipe("text-generation", bert, max_new_tokens=NEW)
    prompts = ["the keeper", *ragged(3, 8)]
    # Prompts of unequal length share a batch and a cache.
    for prompt, answer in zip(prompts, write(prompts), strict=True):
        assert answer == [{"generated_text": naive(write.bert, prompt)[1]}]
    assert len({str(answer) for answer in write(prompts)}) == len(prompts)


def test_only_the_new_text_and_no_special_tokens(write):
    prompt = "the keeper"
    (answer,) = write(prompt, return_full_text=False)
    assert prompt + answer["generated_text"] == naive(write.bert, prompt)[1]
    (bare,) = write(prompt, add_special_tokens=False, max_new_tokens=3)
    assert bare["generated_text"] == naive(write.bert, prompt, 3, special=False)[1]


def test_each_row_stops_at_its_own_end(write):
    prompts = ["the keeper", "wrote every evening"]
    ids = naive(write.bert, prompts[0])[0]
    eos = ids[2]
    expected = [naive(write.bert, prompt, eos=eos)[1] for prompt in prompts]
    found = write(prompts, eos_token_id=eos)
    assert [answer[0]["generated_text"] for answer in found] == expected
    assert len(naive(write.bert, prompts[0], eos=eos)[0]) < NEW


def test_a_prompt_may_fill_the_model(write):
    longest = "a " * (32 - NEW - 2)
    assert write(longest) == [{"generated_text": naive(write.bert, longest)[1]}]
    with pytest.raises(PipelineError, match=f"room for {32 - NEW}"):
        write(longest + "a")
    with pytest.raises(PipelineError, match="no token"):
        write("", add_special_tokens=False)


def test_draws_follow_the_seed_and_not_the_batch(write):
    prompts = ["the keeper", "the keeper", *ragged(2, 6)]
    one = write(prompts, do_sample=True, seed=1)
    assert one == write(prompts, do_sample=True, seed=1)
    assert one != write(prompts, do_sample=True, seed=2)
    assert one[0] != one[1]
    assert write(prompts[0], do_sample=True, seed=1) == one[0]
    assert list(write(iter(prompts), do_sample=True, seed=1)) == one
    # Where only the best token may be drawn, a draw is greedy.
    close(write(prompts, do_sample=True, top_k=1), write(prompts))


def test_what_may_be_drawn():
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.4, 0.1]]))
    kept = lambda *a: np.isfinite(restrict(logits, *a)).tolist()  # noqa: E731
    assert kept(1.0, 2, 1.0)[0] == [False, True, False, True]
    assert kept(1.0, 0, 0.7)[0] == [False, True, False, True]
    assert kept(1.0, 0, 0.76)[0] == [False, True, True, True]
    assert kept(1.0, 0, 1e-6)[0] == [False, True, False, False]
    assert kept(1.0, 0, 1.0) == [[True] * 4] * 2
    np.testing.assert_allclose(restrict(logits, 0.5, 0, 1.0), logits / 0.5)


def test_options_are_checked(write):
    for bad in ({"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5},
                {"top_k": -1}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            write("a", **bad)
    with pytest.raises(PipelineError, match="made for"):
        write("a", max_new_tokens=NEW + 1)
    for wrong, message in ((32, "32 positions"), (0, "at least 1")):
        with pytest.raises(ValueError, match=message):
            pipe("text-generation", write.bert, max_new_tokens=wrong)
