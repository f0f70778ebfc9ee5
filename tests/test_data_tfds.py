"""TFDS without TensorFlow, on data sets that TFDS itself prepares here as array_record.

GLUE, SQuAD and CoNLL-2003 are prepared by TFDS's own builders, whose downloads are replaced by
files in the published layout.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tensorflow_datasets.text  # noqa: F401 — registers GLUE and CoNLL-2003 without TensorFlow

from jbert.data.files import read_file
from jbert.data.glue import read_glue
from jbert.data.table import DataError, DataNotFoundError, DataWarning
from jbert.data.tfds import read_tfds, tfds_splits

ROWS = 25
NAMES = {"label": ("no", "yes"), "tags": ("O", "B-x")}


class JbertNotes(tfds.core.GeneratorBasedBuilder):
    """A data set that TFDS does not know of, with every kind of feature that texts have."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
            "score": np.float32,
            "good": np.bool_,
            "words": tfds.features.Sequence(tfds.features.Text()),
            "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-x"])),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download):
        return {name: self._generate_examples(name) for name in ("train", "test", "bad")}

    def _generate_examples(self, split):
        for number in range(ROWS if split == "train" else 2):
            yield (
                number,
                {
                    "text": f"Nº {number}" if split != "bad" or number else b"N\xba",
                    "label": -1 if split == "test" else number % 2,
                    "score": 4.2,
                    "good": True,
                    "words": ["ä", "b"][: number % 3],
                    "ner": [-1] if split == "test" else [0, 1][: number % 3],
                },
            )


def prepare(name, data_dir, monkeypatch, downloads):
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: downloads)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=config)


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    builder = JbertNotes(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return data_dir


def in_order(table, key="idx"):
    """The table sorted: TFDS shuffles what it prepares."""
    return table.select(sorted(range(len(table)), key=table.columns[key].__getitem__))


def test_values_become_plain_python(notes):
    table = in_order(read_tfds("jbert_notes", "train", notes), "text")
    assert len(table) == ROWS and table.label_names == NAMES
    same = {"score": 4.2, "good": True}
    assert table[0] == same | {"text": "Nº 0", "label": 0, "words": [], "tags": []}
    row = next(row for row in table if row["text"] == "Nº 5")
    words = {"words": ["ä", "b"], "tags": ["O", "B-x"]}
    assert row == same | words | {"text": "Nº 5", "label": 1}
    assert {name: type(value) for name, value in row.items()} == {
        "text": str,
        "label": int,
        "score": float,
        "good": bool,
        "words": list,
        "tags": list,
    }


def test_rows_are_named_by_split_and_index_and_splits_may_be_slices(notes):
    table = read_tfds("jbert_notes", "train", notes)
    assert table.where(17) == "jbert_notes train[17]"
    part = read_tfds("jbert_notes:1.0.0", "train[:40%]", notes)
    assert part.columns == table.select(range(ROWS * 40 // 100)).columns
    both = read_tfds("jbert_notes", "train[20:]+test", notes)
    assert len(both) == 7 and both.columns["label"][5:] == [None, None]
    assert len(read_tfds("jbert_notes", "train", str(notes))) == ROWS
    assert tfds_splits("jbert_notes", notes) == ("train", "test", "bad")


def test_a_split_without_labels_has_no_such_column_and_says_so(notes):
    table = read_tfds("jbert_notes", "test", notes)
    assert set(table.columns) == {"text", "score", "good", "words"}
    assert table.label_names == NAMES
    for column in ("label", "tags"):
        with pytest.raises(DataError, match="^jbert_notes test: .*neither trained on nor evaluat"):
            table.require("text", column)


def test_bytes_that_are_no_text_are_an_error_or_skipped(notes):
    with pytest.raises(DataError, match=r"jbert_notes bad\[[01]\]: column 'text': expected UTF-8"):
        read_tfds("jbert_notes", "bad", notes)
    with pytest.warns(DataWarning, match="skipped 1 of 2 rows"):
        table = read_tfds("jbert_notes", "bad", notes, on_bad_row="skip")
    assert table.columns["text"] == ["Nº 1"]


def test_neither_tensorflow_nor_a_builder_is_needed_to_read(notes):
    code = f"""
import sys
from jbert.data.tfds import read_tfds
assert len(read_tfds("jbert_notes", "train", {str(notes)!r})) == {ROWS}
for name in ("glue/mrpc", "gleu"):
    try:
        read_tfds(name, "train", {str(notes)!r})
    except FileNotFoundError as error:
        print(error)
print([name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_a_data_set_that_is_not_prepared_says_what_to_run(tmp_path):
    with pytest.raises(DataNotFoundError) as error:
        read_tfds("glue/mrpc", "train", tmp_path)
    command = (
        'python -c "import tensorflow_datasets as tfds, tensorflow_datasets.text; '
        f"tfds.builder('glue/mrpc', data_dir='{tmp_path}', file_format='array_record')"
        '.download_and_prepare()"'
    )
    assert f"prepared in {tmp_path}, found nothing" in str(error.value)
    assert command in str(error.value)
    with pytest.raises(FileNotFoundError, match="squad/v2.0: expected it prepared in"):
        read_tfds("squad/v2.0", "train", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, message",
    [
        ("gleu/mrpc", "no data set 'gleu'.* Nearest: glue"),
        ("glue/mrcp", "'glue' has no configuration 'mrcp'. Nearest: mrpc"),
        ("squad/x", "no configuration 'x'. It has v1.1, v2.0"),
        ("conll2003/xxxxxxxxxx", "no configuration 'xxxxxxxxxx'. It has conll2003"),
        ("qqqqqqqq", "no data set 'qqqqqqqq'.* Check its spelling"),
        ("jbert_notes:9.0.0", "jbert_notes:9.0.0: expected it prepared in"),
    ],
)
def test_a_name_that_does_not_exist_gets_the_nearest(notes, name, message):
    with pytest.raises(DataNotFoundError, match=message):
        read_tfds(name, "train", notes)


@pytest.mark.parametrize("split", ["trian", "trian[:10%]", "train+trian"])
def test_a_split_that_does_not_exist_gets_the_nearest(notes, split):
    with pytest.raises(DataError, match="splits train, test, bad, found 'trian'. Nearest: train"):
        read_tfds("jbert_notes", split, notes)


def test_a_slice_that_makes_no_sense_is_an_error(notes):
    with pytest.raises(DataError, match=r"jbert_notes train\[:x\]: .*train\[:x\]"):
        read_tfds("jbert_notes", "train[:x]", notes)


@pytest.fixture
def copied(notes, tmp_path):
    for path in (notes / "jbert_notes" / "1.0.0").iterdir():
        (tmp_path / "jbert_notes" / "1.0.0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "jbert_notes" / "1.0.0" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_another_file_format_is_named_with_what_to_run(copied):
    folder = copied / "jbert_notes" / "1.0.0"
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError) as error:
        read_tfds("jbert_notes", "train", copied)
    message = str(error.value)
    assert f"expected array_record or parquet, found tfrecord in {folder}" in message
    assert f"data_dir='{copied}_array_record', file_format='array_record')" in message


@pytest.mark.parametrize("damage", ["missing", "cut", "info"])
def test_a_damaged_directory_is_an_error(copied, damage):
    (shard,) = (copied / "jbert_notes" / "1.0.0").glob("*-train.array_record*")
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        (shard.parent / "dataset_info.json").write_text('{"name": ')
    with pytest.raises(DataError, match="jbert_notes.*: expected a prepared data set, found: "):
        read_tfds("jbert_notes", "train", copied)


def test_parquet_is_read_too(tmp_path):
    builder = JbertNotes(data_dir=tmp_path, file_format="parquet")
    builder.download_and_prepare()
    table = read_tfds("jbert_notes", "train", tmp_path)
    assert len(table) == ROWS and table.columns["text"][0].startswith("Nº ")


def test_squad_reads_as_from_its_file(tmp_path, monkeypatch):
    context = "Ada saw the sea. The sea was calm."
    answers = [{"text": "the sea", "answer_start": 8}, {"text": "sea", "answer_start": 12}]
    questions = [
        {"id": "a", "question": "What?", "answers": answers, "is_impossible": False},
        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True}
        | {"plausible_answers": [{"text": "Ada", "answer_start": 0}]},
    ]
    for version, asked in (("v2.0", questions), ("v1.1", questions[:1])):
        path = tmp_path / f"{version}.json"
        paragraphs = [{"context": context, "qas": asked}]
        path.write_text(json.dumps({"data": [{"title": "Sea", "paragraphs": paragraphs}]}))
        downloads = {"train": path, "dev": path}
        prepare(f"squad/{version}", tmp_path, monkeypatch, downloads)
        table = in_order(read_tfds(f"squad/{version}", "validation", tmp_path), "id")
        assert table.columns == read_file(path).columns
        assert table.fingerprint == read_file(path).fingerprint


def test_conll2003_reads_as_from_its_file(tmp_path, monkeypatch):
    content = "-DOCSTART- -X- -X- O\n\nAda NNP B-NP B-PER\nswims VBZ B-VP O\n\nSea NN B-NP O\n"
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text(content)
    prepare("conll2003", tmp_path, monkeypatch, tmp_path)
    table = in_order(read_tfds("conll2003", "train", tmp_path), "tokens")
    file = in_order(read_file(tmp_path / "train.txt", "conll"), "tokens")
    assert table.columns["tokens"] == file.columns["tokens"] == [["Ada", "swims"], ["Sea"]]
    assert table.columns["tags"] == file.columns["tags"] == [["B-PER", "O"], ["O"]]
    assert table.columns["pos"] == [["NNP", "VBZ"], ["NN"]]
    assert table.label_names["tags"][:3] == ("O", "B-PER", "I-PER")


GLUE_FILES = {
    "WNLI": {
        "train": "index\tsentence1\tsentence2\tlabel\n0\tA b\tÄ\t1\n1\tA\tB\t0\n2\tC\tD\t0\n",
        "dev": "index\tsentence1\tsentence2\tlabel\n0\tA b\tC\t0\n",
        "test": "index\tsentence1\tsentence2\n0\tA b\tC\n",
    },
    "STS-B": {
        "train": "index\tsentence1\tsentence2\tscore\n0\tA b\tB a\t4.200\n1\tC\tD\t0.000\n",
        "dev": "index\tsentence1\tsentence2\tscore\n0\tA b\tB a\t3.333\n",
        "test": "index\tsentence1\tsentence2\n0\tA b\tC\n",
    },
    "CoLA": {
        "train": 'gj04\t1\t\tThe sea is "calm.\ngj04\t0\t*\tThe calm is sea is.\n',
        "dev": "gj04\t1\t\tAda swims.\n",
        "test": "index\tsentence\n0\tAda sank.\n",
    },
    "MNLI": {
        "train": "index\tsentence1\tsentence2\tgold_label\n0\tA\tB\tneutral\n1\tA\tC\tentailment\n",
        "dev_matched": "index\tsentence1\tsentence2\tgold_label\n0\tA\tB\tcontradiction\n",
        "dev_mismatched": "index\tsentence1\tsentence2\tgold_label\n0\tA\tB\tentailment\n",
        "test_matched": "index\tsentence1\tsentence2\n0\tA\tB\n",
        "test_mismatched": "index\tsentence1\tsentence2\n0\tC\tD\n",
    },
}


@pytest.mark.parametrize("folder", GLUE_FILES)
def test_glue_is_the_same_from_tfds_and_from_its_files(tmp_path, monkeypatch, folder):
    for split, content in GLUE_FILES[folder].items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{split}.tsv").write_text(content, encoding="utf-8")
    name = folder.lower().replace("-", "")
    prepare(f"glue/{name}", tmp_path / "tfds", monkeypatch, tmp_path)
    prepared, files = read_glue(name, data_dir=tmp_path / "tfds"), read_glue(name, tmp_path)
    assert list(prepared) == list(files)
    for split, table in prepared.items():
        assert in_order(table).columns == files[split].columns
        assert in_order(table).fingerprint == files[split].fingerprint
        assert table.label_names == files[split].label_names
        assert table.absent == files[split].absent
        assert ("label" in table.columns) == ("test" not in split)


def test_what_is_read_does_not_depend_on_where_it_lies(notes, copied):
    tables = [read_tfds("jbert_notes", "train", place) for place in (notes, copied)]
    assert tables[0].fingerprint == tables[1].fingerprint
