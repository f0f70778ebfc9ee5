"""The model card: what it says, how users' text is escaped, and that their own files stay."""

import dataclasses
import json
import re

import disk
import finetune_runs
import pytest
import yaml
from finetune_runs import one_device  # noqa: F401 — fixtures

import jbert
from jbert.card import Training, escape, is_own, model_card, write_card
from jbert.convert.command import convert
from jbert.models import REGISTRY
from jbert.training import seeds
from jbert.training.finetune import finetune

LABELS = {0: "no", 1: "<b>|yes|</b>\n# [click](http://x) `"}


def read(path) -> tuple[dict, str]:
    """The front matter and the text of a card."""
    return _parse(path.read_text("utf-8"))


def _parse(card: str) -> tuple[dict, str]:
    front, text = card.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(front), text


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("card")
    config = finetune_runs.config(place)
    figures = finetune(config)
    return place / "run", config, figures


# -- of a model --------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", REGISTRY)
def test_every_head_has_a_card_that_the_hub_can_read(arch):
    for task in REGISTRY[arch].tasks:
        model = disk.bert(arch, task)
        front, text = _parse(model_card(model, "m", "safetensors"))
        assert front["library_name"] == "transformers" and arch in front["tags"]
        assert "license" not in front and "model-index" not in front and "base_model" not in front
        assert type(model.module).__name__ in text or task == "causal_lm"
        assert f"| family | {arch} |" in text and f"{model.num_params():,}" in text
        for block in code_blocks(text, "python"):
            compile(block, "card", "exec")
        assert f'task="{task or "encoder"}"' in code_blocks(text, "python")[0]


def test_a_pipeline_is_named_where_there_is_one(tmp_path):
    tokenizer = disk.tokenizer(tmp_path)
    front, text = _parse(model_card(disk.bert(task="masked_lm", tokenizer=tokenizer), "m", "orbax"))
    assert front["pipeline_tag"] == "fill-mask" and front["library_name"] == "jbert"
    assert 'jbert.pipeline("fill-mask", model=bert)' in text and "AutoTokenizer" in text
    assert "jbert convert DIRECTORY for-transformers --to safetensors" in text
    front, text = _parse(model_card(disk.bert(task="next_sentence"), "m", "orbax"))
    assert "pipeline_tag" not in front
    assert "jbert.pipeline" not in text and "AutoTokenizer" not in text
    _, text = _parse(model_card(disk.bert(task="replaced_token_detection"), "m", "safetensors"))
    assert "transformers has no class for this head" in text and "AutoModel.from" in text
    relative = disk.bert(position_embedding_type="relative_key")
    assert "need transformers 4" in model_card(relative, "m", "orbax")


def test_a_model_from_the_hub_names_its_base():
    model = dataclasses.replace(disk.bert(), source="google/mobilebert-uncased@1f90a6c")
    assert _parse(model_card(model, "m", "orbax"))[0]["base_model"] == "google/mobilebert-uncased"
    for source in ("/home/someone/google/mobilebert", None):
        model = dataclasses.replace(disk.bert(), source=source)
        assert "base_model" not in _parse(model_card(model, "m", "orbax"))[0]


def test_many_labels_are_cut_and_those_of_other_heads_left_out():
    many = {number: f"intent {number}" for number in range(60)}
    card = model_card(disk.bert(task="sequence_classification", id2label=many), "m", "orbax")
    assert "intent 19, and 40 more, see config.json" in card and "intent 20" not in card
    assert "LABEL_0" not in model_card(disk.bert(task="masked_lm"), "m", "orbax")


# -- what users write --------------------------------------------------------------------------


def test_users_text_is_text():
    assert escape("a|b\n# c") == r"a\|b \# c"
    assert escape("<script>&") == "&lt;script&gt;&amp;"
    assert escape("[x](y) `z` *a* __b__ snake_case") == (
        r"\[x\]\(y\) \`z\` \*a\* \_\_b\_\_ snake_case"
    )
    assert escape("\ud800\x07\u202e!") == "\ufffd\ufffd\ufffd\\!"
    assert escape("a" * 600) == "a" * 500 + r"… \(600 characters\)"


def test_hostile_labels_and_names_leave_the_card_whole(tmp_path):
    model = disk.bert(task="sequence_classification", id2label=LABELS)
    training = Training(
        {"data.train_file": "/home/me/secret: {x}\n---\n.csv", "start.overrides.a": "|b"},
        {"validation\n---": {"accuracy": 0.5, "loss": float("nan"), "note": "high"}},
    )
    name = "m\n---\nlicense: mit\n<script>"
    front, text = _parse(model_card(model, name, "safetensors", training))
    assert "license" not in front and front["model-index"][0]["name"].startswith("m --- license")
    (result,) = front["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["accuracy"]
    assert "<script>" not in text and "<b>" not in text and "/home/me" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", row)) in (4, 6) for row in rows), rows


# -- of a run ----------------------------------------------------------------------------------


def test_a_finished_run_says_how_its_model_was_made(run):
    directory, config, figures = run
    front, text = read(directory / "model" / "README.md")
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "run"
    assert result["task"]["type"] == front["pipeline_tag"] == "text-classification"
    assert result["dataset"] == {
        "name": "train.jsonl",
        "type": "train-jsonl",
        "split": "validation",
    }
    assert {m["name"]: m["value"] for m in result["metrics"]} == figures["validation"]
    assert {m["name"]: m["type"] for m in result["metrics"]}["matthews"] == "matthews_correlation"
    assert "| optimizer.learning_rate | 0.01 |" in text and "| steps | 2 |" in text
    assert "| train_file | train.jsonl |" in text and str(directory.parent) not in text
    assert "| labels | bad, good |" in text and "Made with jbert" in text
    # Beside the model it is no damage to change or delete it.
    jbert.load(directory / "model", local_files_only=True)
    assert "files" in json.loads((directory / "model" / "jbert.json").read_text())


def test_convert_takes_the_figures_along_for_the_same_head(run, tmp_path):
    directory, _, figures = run
    convert(str(directory), tmp_path / "same", "safetensors")
    front, text = read(tmp_path / "same" / "README.md")
    assert front["library_name"] == "transformers" and "## Results" in text
    assert Training.read(tmp_path / "same") == Training.read(directory / "model")
    convert(str(directory), tmp_path / "encoder", "safetensors", task="encoder")
    front, text = read(tmp_path / "encoder" / "README.md")
    assert "model-index" not in front and "## Results" not in text
    assert not (tmp_path / "encoder" / "training.json").exists()


def test_known_data_sets_have_their_hub_names():
    model = disk.bert(task="question_answering")
    for dataset, hub_id in {
        "squad/v2.0:3.0.0": "rajpurkar/squad_v2", "glue/mrpc": "nyu-mll/glue", "mine": None,
    }.items():  # fmt: skip
        training = Training({"data.dataset": dataset}, {"test": {"exact": 80.0}}, "a/b")
        front, _ = _parse(model_card(model, "m", "orbax", training))
        assert front.get("datasets") == ([hub_id] if hub_id else None)
        (result,) = front["model-index"][0]["results"]
        assert result["dataset"]["type"] == (hub_id or "mine")
        assert result["metrics"] == [{"type": "exact_match", "value": 80.0, "name": "exact"}]
        assert front["metrics"] == ["exact_match"] and front["base_model"] == "a/b"


def test_several_files_are_named_without_their_places():
    training = Training({"data.train_files": ["/home/me/a.txt", "b/"]}, {"test": {"loss": 1.5}})
    front, text = _parse(model_card(disk.bert(task="masked_lm"), "m", "orbax", training))
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "a.txt, b/"
    assert "| train_files | a.txt, b/ |" in text


def test_a_training_json_that_is_none_is_left_out(tmp_path, caplog):
    assert Training.read(tmp_path) is None and not caplog.records
    for text in ("{", "[]", '{"settings": 1, "figures": {}}', '{"settings": {}, "figures": [1]}',
                 '{"settings": {}, "figures": {"a": 1}}', '{"figures": {}}'):  # fmt: skip
        caplog.clear()
        (tmp_path / "training.json").write_text(text)
        assert Training.read(tmp_path) is None
        assert "the card goes without" in caplog.text


# -- whose README it is ------------------------------------------------------------------------


def test_a_readme_of_the_users_stays(tmp_path):
    model, mine = disk.bert(), "# Mine\n"
    jbert.export(model, tmp_path / "m")
    card = tmp_path / "m" / "README.md"
    assert not is_own(card)
    written = card.read_bytes()
    for text in (mine, written.decode().replace("# m\n", "# m, by me\n")):
        card.write_text(text)
        for format in ("safetensors", "stablehlo"):
            jbert.export(model, tmp_path / "m", format, force=True)
            assert card.read_text() == text
        jbert.save(model, tmp_path / "m", force=True)
        jbert.save(model, tmp_path / "m")
        assert card.read_text() == text
        card.write_text(text + "more")
        assert jbert.load(tmp_path / "m").task is None
        write_card(model, tmp_path / "m", "m", "orbax")
        assert card.read_text() == text + "more"


def test_a_card_of_jberts_is_renewed(tmp_path):
    jbert.export(disk.bert(task="masked_lm"), tmp_path / "m")
    before = (tmp_path / "m" / "README.md").read_text()
    jbert.export(disk.bert(task="next_sentence"), tmp_path / "m", force=True)
    after = (tmp_path / "m" / "README.md").read_text()
    assert "BertForMaskedLM" in before and "BertForNextSentencePrediction" in after
    assert "BertForMaskedLM" not in after
    # What was written about other parameters does not hold of these.
    jbert.save(disk.bert(), tmp_path / "m", force=True)
    assert not (tmp_path / "m" / "README.md").exists()


def test_a_run_that_is_made_again_keeps_its_users_readme(run):
    directory, config, _ = run
    card = directory / "model" / "README.md"
    written = card.read_bytes()
    card.write_text("# Mine\n")
    finetune(finetune_runs.again(config, resume=True))
    assert card.read_text() == "# Mine\n"
    card.write_bytes(written)


def test_the_best_seeds_model_comes_with_its_card_unless_there_is_a_users(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "write_report", lambda *_: None)
    source, target = tmp_path / "seed-1" / "model", tmp_path / "model"
    jbert.export(disk.bert(), source)
    figures = {1: {"validation": {"accuracy": 0.5}}}
    seeds._gather(tmp_path, figures, "accuracy")
    assert (target / "README.md").read_bytes() == (source / "README.md").read_bytes()
    (target / "README.md").write_text("# Mine\n")
    seeds._gather(tmp_path, figures, "accuracy")
    assert (target / "README.md").read_text() == "# Mine\n"
