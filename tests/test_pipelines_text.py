"""Answers about whole texts: fill-mask, classification, next sentence, embeddings."""

import json

import numpy as np
import pytest
from pipeline_models import close, model, pipe, ragged, tokenizer

import jbert
from jbert.models.bert import BertModel
from jbert.pipelines import PipelineError
from jbert.pipelines.text_classification import apply_function


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def logits(bert, *texts, field="logits"):
    """The model's own output for one text or pair, with no padding."""
    tokens = tokenizer()(*([text] for text in texts))
    return np.asarray(bert(**tokens)[field])


# -- fill-mask ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fill():
    return pipe("fill-mask", model("bert", "masked_lm"))


def test_fill_mask_ranks_the_vocabulary_at_the_mask(fill):
    text = "the keeper [MASK] the bread"
    ids = tokenizer().encode(text)
    place = ids.index(tokenizer().mask_token_id)
    expected = softmax(logits(fill.bert, text)[0, place])
    found = fill(text, top_k=3)
    assert [answer["token"] for answer in found] == np.argsort(-expected)[:3].tolist()
    for answer in found:
        assert answer["score"] == pytest.approx(expected[answer["token"]], rel=1e-4)
        assert answer["token_str"] == tokenizer().decode([answer["token"]])
        filled = [*ids[:place], answer["token"], *ids[place + 1 :]]
        assert answer["sequence"] == tokenizer().decode(filled, skip_special_tokens=True)
    assert len(fill(text)) == 5


def test_several_masks_get_a_list_each(fill):
    text = "[MASK] keeper [MASK] the [MASK]"
    found = fill(text, top_k=2)
    assert [len(answers) for answers in found] == [2, 2, 2]
    assert found[1][0]["sequence"].count("[MASK]") == 2
    assert found[1][0]["sequence"].startswith("[CLS] [MASK] keeper")
    # Beside texts with one mask, and the other way round.
    mixed = fill(["the [MASK]", text], top_k=2)
    close(mixed[1], found)
    close(mixed[0], fill("the [MASK]", top_k=2))


def test_targets_are_the_only_candidates(fill, caplog):
    text = "the [MASK] wrote"
    everything = {answer["token_str"]: answer for answer in fill(text, top_k=299)}
    found = fill(text, targets=["the", "he"])
    assert {answer["token_str"] for answer in found} == {"the", "he"}
    for answer in found:
        close(answer, everything[answer["token_str"]])
    assert found[0]["score"] >= found[1]["score"]
    first = tokenizer().tokenize("unheard")[0]
    assert fill(text, targets="unheard")[0]["token_str"] == first
    assert "'unheard' is no token" in caplog.text
    with pytest.raises(PipelineError, match="targets"):
        fill(text, targets=[""])


def test_rows_that_pad_a_table_are_no_answers():
    """Their logits count in the softmax, as in transformers."""
    padded = model("bert", "masked_lm", vocab_size=len(tokenizer()) + 20)
    text, everything = "the [MASK] wrote", 1 << 10
    found = pipe("fill-mask", padded)(text, top_k=everything)
    assert sorted(answer["token"] for answer in found) == list(range(len(tokenizer())))
    place = tokenizer().encode(text).index(tokenizer().mask_token_id)
    expected = float(softmax(logits(padded, text)[0, place])[found[0]["token"]])
    close(found[0]["score"], expected)


def test_a_text_without_a_mask_is_named(fill):
    with pytest.raises(PipelineError, match=r"inputs\[1\]: no \[MASK\] in the text 'b'"):
        fill(["[MASK]", "b"])


def test_a_pretraining_model_fills_masks_too(fill):
    bert = model("bert", "pretraining")
    found = pipe("fill-mask", bert)("a [MASK]", top_k=1)[0]
    expected = softmax(logits(bert, "a [MASK]", field="prediction_logits")[0, 2])
    assert found["score"] == pytest.approx(expected.max(), rel=1e-4)


# -- text-classification ---------------------------------------------------------------------------


def test_labels_are_scored_by_softmax_best_first():
    bert = model("bert", "sequence_classification", labels=("bad", "so-so", "good"))
    classify = pipe("text-classification", bert)
    expected = softmax(logits(bert, "the bread")[0])
    scores = dict(zip(("bad", "so-so", "good"), expected, strict=True))
    every = classify("the bread", top_k=None)
    assert [entry["label"] for entry in every] == sorted(scores, key=lambda n: -scores[n])
    for entry in every:
        assert entry["score"] == pytest.approx(scores[entry["label"]], rel=1e-4)
    assert classify("the bread") == [every[0]]
    assert classify(["the bread"]) == [every[0]]
    assert classify(["the bread"], top_k=2) == [every[:2]]
    assert classify({"text": "the bread"}) == every[0]


def test_pairs_are_read_as_two_segments():
    classify = pipe("text-classification", model("bert", "sequence_classification"))
    expected = softmax(logits(classify.bert, "the bread", "was good")[0]).max()
    pair = {"text": "the bread", "text_pair": "was good"}
    found = classify([pair, "the bread was good", ("the bread", "was good")])
    assert found[0] == found[2] != found[1]
    assert found[0]["score"] == pytest.approx(expected, rel=1e-4)
    close(classify(pair), found[0])
    with pytest.raises(PipelineError, match="3 items"):
        classify([("a", "b", "c")])


def test_the_function_follows_the_problem_and_the_caller():
    text = "the bread"
    regression = model("bert", "sequence_classification", labels=("x",), problem_type="regression")
    classify = pipe("text-classification", regression)
    raw = logits(regression, text)[0]
    assert classify(text)[0]["score"] == pytest.approx(float(raw[0]), rel=1e-4)
    one = classify(text, function_to_apply="sigmoid")[0]["score"]
    assert one == pytest.approx(1 / (1 + np.exp(-raw[0])), rel=1e-4)
    many = model("bert", "sequence_classification", problem_type="multi_label_classification")
    scores = [e["score"] for e in pipe("text-classification", many)(text, top_k=None)]
    expected = np.sort(1 / (1 + np.exp(-logits(many, text)[0])))[::-1]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="function_to_apply"):
        classify(text, function_to_apply="tanh")


def test_the_sigmoid_does_not_overflow():
    found = apply_function("sigmoid", np.float32([-1e4, -1.0, 0.0, 1.0, 1e4]))
    np.testing.assert_allclose(found, [0, 0.26894142, 0.5, 0.73105858, 1], rtol=1e-6)


# -- next sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize("task, field", [("next_sentence", "logits"),
                                         ("pretraining", "seq_relationship_logits")])  # fmt: skip
def test_next_sentence_says_which_and_how_sure(task, field):
    bert = model("bert", task)
    follows = pipe("next-sentence", bert)
    for pair in [("the keeper", "wrote"), ("b", "a c d e")]:
        expected = softmax(logits(bert, *pair, field=field)[0])
        (found,) = follows([pair])
        assert found["label"] == ("is_next", "not_next")[int(expected.argmax())]
        assert found["score"] == pytest.approx(expected.max(), rel=1e-4)
    with pytest.raises(PipelineError, match="two texts"):
        follows("one text")


# -- embeddings -----------------------------------------------------------------------------------


def test_poolings_read_the_text_and_not_its_padding():
    bert = model()
    embed = pipe("sentence-embedding", bert, buckets=(32,))
    texts = ragged(3, 6)
    for pooling in ("mean", "cls", "max"):
        found = embed(texts, pooling=pooling)
        assert found.shape == (3, 32)
        for text, vector in zip(texts, found, strict=True):
            hidden = logits(bert, text, field="last_hidden_state")[0]
            expected = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0)}[pooling]
            np.testing.assert_allclose(vector, expected, atol=1e-5)
    plain, unit = embed(texts), embed(texts, normalize=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1)[:, None], atol=1e-6)
    cosines = embed.similarity(texts[0], texts)
    assert cosines.shape == (1, 3)
    assert cosines[0, 0] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(cosines, unit[:1] @ unit.T, atol=1e-5)
    np.testing.assert_allclose(embed.similarity(plain, texts[:1]), cosines.T, atol=1e-5)
    with pytest.raises(ValueError, match="pooling"):
        embed(texts, pooling="last")


def test_embeddings_cut_texts_at_their_length():
    embed = pipe("sentence-embedding", model())
    long = "a b c d e f g h i j"
    close(embed(long, max_seq_length=5), embed("a b c"))
    assert embed("a " * 99).shape == (32,)
    close(embed("The KEEPER", do_lower_case=True), embed("the keeper"))


def test_a_head_is_left_out_of_embeddings():
    headed = model("bert", "masked_lm")
    embed = pipe("feature-extraction", headed)
    module = BertModel(headed.config, pooler=False)
    bare = jbert.Bert(headed.config, module, headed.params["encoder"])
    expected = logits(bare, "the keeper", field="last_hidden_state")
    np.testing.assert_allclose(embed("the keeper"), expected, atol=1e-5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sentences")
    jbert.export(model(), directory / "plain", format="safetensors")
    return directory / "plain"


def test_a_model_is_loaded_by_name_with_the_options_of_load(saved):
    embed = jbert.pipeline("feature-extraction", str(saved), dtype="bfloat16", truncation=True)
    assert (embed.bert.execution.dtype, embed.options.truncation) == ("bfloat16", True)
    with pytest.raises(ValueError, match="trunkation"):
        jbert.pipeline("feature-extraction", saved, trunkation=True)


def write_modules(directory, pooling, kinds=("Transformer", "Pooling"), **sentence):
    names = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": names.get(kind, f"{i}_{kind}"),
         "type": kind if "." in kind else f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (directory / "sentence_bert_config.json").write_text(json.dumps(sentence))


def test_a_sentence_transformers_directory_settles_the_pooling(saved):
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True,
             "pooling_mode_mean_tokens": False}  # fmt: skip
    write_modules(saved, flags, ("Transformer", "Pooling", "Normalize"), max_seq_length=5)
    embed = jbert.pipeline("sentence-embedding", str(saved), buckets=(16,))
    assert embed.options.pooling == "cls"
    assert embed.options.normalize
    assert embed.options.max_seq_length == 5
    expected = logits(model(), "a b c", field="last_hidden_state")[0, 0]
    np.testing.assert_allclose(embed("a b c d e f"), expected / np.linalg.norm(expected), atol=1e-5)
    # What the caller says wins.
    again = jbert.pipeline("sentence-embedding", saved, normalize=False, pooling="mean")
    assert (again.options.pooling, again.options.normalize) == ("mean", False)


def test_modules_and_poolings_beyond_these_are_refused(saved):
    mean = {"pooling_mode_mean_tokens": True}
    for kinds in (("Transformer", "Pooling", "Dense"), ("Pooling",), ("Transformer",),
                  ("Transformer", "my.Pooling")):  # fmt: skip
        write_modules(saved, mean, kinds)
        with pytest.raises(ValueError, match=f"modules.json.*{kinds[-1]}"):
            jbert.pipeline("sentence-embedding", saved)
    for flags in ({"pooling_mode_lasttoken": True}, {},
                  mean | {"pooling_mode_cls_token": True}):  # fmt: skip
        write_modules(saved, flags)
        with pytest.raises(ValueError, match="1_Pooling"):
            jbert.pipeline("sentence-embedding", saved)
    write_modules(saved, {"pooling_mode": "max"})
    assert jbert.pipeline("sentence-embedding", saved).options.pooling == "max"
