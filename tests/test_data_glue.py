"""GLUE's tasks, and the directory of tsv files that they are published as."""

import pytest

from jbert.data.glue import GLUE, glue_task, read_glue, read_glue_file
from jbert.data.table import DataError, DataNotFoundError, DataWarning


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return write


# The first lines of each task's files as gluebenchmark publishes them, the rows our own.
GLUE_FILES = {
    "CoLA/train.tsv": 'gj04\t1\t\tThe sea is "calm.\ngj04\t0\t*\tThe calm is sea is.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tAda swims.\n",
    "CoLA/test.tsv": "index\tsentence\n0\tAda sank.\n",
    "SST-2/train.tsv": "sentence\tlabel\na fine day \t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\na poor day \t0\n",
    "SST-2/test.tsv": "index\tsentence\n0\ta day\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tA b\tB a\r\n",
    "MRPC/dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t70\t71\tA b\tC d\n",
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t70\t71\tA b\tC d\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tHow?\t0\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tWhy\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWhy?\tWho?\n",
    "STS-B/train.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\tA b\tB a\t4.200\n",
    "STS-B/dev.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\tA b\tC\t0.000\n",
    "STS-B/test.tsv": "index\tgenre\tsentence1\tsentence2\n0\tnews\tA b\tC\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tAda.\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tBut.\tnot_entailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tWho?\tBut.\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b\tA\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b\tC\tnot_entailment\n",
    "RTE/test.tsv": "index\tsentence1\tsentence2\n0\tA b\tC\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b\tA\t1\n1\tA\tB\t0\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b\tC\t0\n",
    "WNLI/test.tsv": "index\tsentence1\tsentence2\n0\tA b\tC\n",
} | {
    f"MNLI/{split}.tsv": f"index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA\tB\tx\t{label}\n"
    for split, label in {
        "train": "neutral",
        "dev_matched": "contradiction",
        "dev_mismatched": "entailment",
    }.items()
}
GLUE_FILES["MNLI/test_matched.tsv"] = "index\tsentence1\tsentence2\n0\tA\tB\n"
GLUE_FILES["MNLI/test_mismatched.tsv"] = "index\tsentence1\tsentence2\n0\tC\tD\n"


@pytest.fixture
def glue(write, tmp_path):
    for name, content in GLUE_FILES.items():
        write(name, content)
    return tmp_path


def test_glue_labels_are_in_their_published_order():
    names = {name: task.label_names for name, task in GLUE.items()}
    assert names == {
        "cola": ("unacceptable", "acceptable"),
        "sst2": ("negative", "positive"),
        "mrpc": ("not_equivalent", "equivalent"),
        "qqp": ("not_duplicate", "duplicate"),
        "stsb": (),
        "mnli": ("entailment", "neutral", "contradiction"),
        "qnli": ("entailment", "not_entailment"),
        "rte": ("entailment", "not_entailment"),
        "wnli": ("not_entailment", "entailment"),
    }
    assert [task.num_labels for task in GLUE.values()] == [2, 2, 2, 2, 1, 3, 2, 2, 2]
    assert GLUE["stsb"].problem_type == "regression"
    assert GLUE["mnli"].problem_type == "single_label_classification"
    assert GLUE["mrpc"].metrics == GLUE["qqp"].metrics == ("accuracy", "f1")
    assert GLUE["cola"].metrics == ("matthews_correlation",)
    assert GLUE["stsb"].metrics == ("pearson", "spearmanr")


FIRST_ROWS = {
    "cola": ({"sentence": 'The sea is "calm.', "label": 1, "idx": 0}, 1, 2),
    "sst2": ({"sentence": "a fine day ", "label": 1, "idx": 0}, 0, 1),
    "mrpc": ({"sentence1": "A b", "sentence2": "B a", "label": 1, "idx": 0}, 0, 1),
    "qqp": ({"question1": "Why?", "question2": "How?", "label": 0, "idx": 0}, 1, 1),
    "stsb": ({"sentence1": "A b", "sentence2": "B a", "label": 4.2, "idx": 0}, 0.0, 1),
    "mnli": ({"premise": "A", "hypothesis": "B", "label": 1, "idx": 0}, 2, 1),
    "qnli": ({"question": "Who?", "sentence": "Ada.", "label": 0, "idx": 0}, 1, 1),
    "rte": ({"sentence1": "A b", "sentence2": "A", "label": 0, "idx": 0}, 1, 1),
    "wnli": ({"sentence1": "A b", "sentence2": "A", "label": 1, "idx": 0}, 0, 2),
}


@pytest.mark.parametrize("name", GLUE)
def test_glue_files_of_every_task(glue, name):
    row, validation, length = FIRST_ROWS[name]
    tables = read_glue(name, glue)
    assert list(tables) == list(GLUE[name].splits)
    assert tables["train"][0] == row and len(tables["train"]) == length
    last = list(tables)[1:]
    assert tables[last[0]].columns["label"] == [validation]
    for split, table in tables.items():
        assert list(table[0]) == [*GLUE[name].text_columns, "label", "idx"] or "test" in split
        if GLUE[name].label_names:
            assert table.label_names == {"label": GLUE[name].label_names}
        if "test" in split:
            assert list(table.columns) == [*GLUE[name].text_columns, "idx"]
            with pytest.raises(DataError, match=r"test.*tsv: .*neither trained on nor evaluated"):
                table.require("label")
    assert read_glue(name, glue / GLUE[name].folder)["train"][0] == row


def test_mnli_has_its_matched_and_mismatched_splits(glue):
    tables = read_glue("MNLI", glue)
    assert tables["validation_matched"].columns["label"] == [2]
    assert tables["validation_mismatched"].columns["label"] == [0]
    assert tables["test_mismatched"].columns["premise"] == ["C"]


def test_glue_problems_are_named(glue, write, tmp_path):
    path = write("WNLI/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n1\tC\tD\tyes\n")
    with pytest.raises(DataError, match=r"train.tsv:3: expected one of the labels not_entail.*yes"):
        read_glue("wnli", glue)
    write("STS-B/dev.tsv", "sentence1\tsentence2\tscore\nA\tB\t1.5\nA\tB\tnan\nC\tD\t2\n")
    with pytest.raises(DataError, match=r"dev.tsv:3: expected a number as label, found 'nan'"):
        read_glue("stsb", glue)
    with pytest.warns(DataWarning, match="skipped 1 of 3"):
        kept = read_glue_file("stsb", glue / "STS-B" / "dev.tsv", on_bad_row="skip")
    assert kept.columns["idx"] == [0, 2] and kept.columns["label"] == [1.5, 2.0]
    path = write("RTE/dev.tsv", "index\tsentence\tsentence2\tlabel\n0\tA\tB\t1\n")
    with pytest.raises(DataError, match=r"dev.tsv: expected the columns 'sentence1'.*Nearest"):
        read_glue_file("rte", path)
    with pytest.raises(DataError, match=r"GLUE tasks cola.*found 'sst'. Nearest: 'sst2'"):
        glue_task("sst")
    assert glue_task("SST-2") is glue_task("glue/sst2") is GLUE["sst2"]
    with pytest.raises(DataNotFoundError, match=r"expected QNLI/ or one of train.tsv"):
        read_glue("qnli", write("empty/x", "x").parent)
    with pytest.raises(DataNotFoundError, match="expected a directory, found none"):
        read_glue("qnli", tmp_path / "none")
    with pytest.raises(ValueError, match="give one of them"):
        read_glue("qnli", glue, data_dir=tmp_path)
