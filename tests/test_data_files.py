"""Local files of every format, whole and broken."""

import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from jbert.data.files import FORMATS, read_file
from jbert.data.table import DataError, DataNotFoundError, DataWarning


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        content = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


# One bad row each, at a line that the message must name, between good rows.
BAD_ROWS = {
    "ragged csv": ("a.csv", "text,label\na,1\nb\nc,2\n", 3, "expected 2 values .* found 1"),
    "long csv": ("a.csv", "text,label\na,1\nb,2,3\nc,2\n", 3, "expected 2 values .* found 3"),
    "quote csv": ("a.csv", 'text,label\na,1\nb "x,"2" 3\nc,2\n', 3, "misplaced quote"),
    "open quote csv": ("a.csv", 'text,label\na,1\n"b,2\nc,2\n', 3, "quote that it opens"),
    "byte csv": ("a.csv", b"text,label\na,1\nb\xe9,2\nc,2\n", 3, r"UTF-8.*0xe9 \(character 2\)"),
    "byte in lines csv": ("a.csv", b'text,label\na,1\n"b\n\xe9",2\nc,2\n', 3, "0xe9.*of line 4"),
    "return csv": ("a.csv", "text,label\na,1\nb\rb,2\nc,2\n", 3, "carriage return within"),
    "ragged tsv": ("a.tsv", "text\tlabel\na\t1\nb\nc\t2\n", 3, "expected 2 values .* found 1"),
    "byte tsv": ("a.tsv", b"text\tlabel\na\t1\n\xff\t2\nc\t2\n", 3, "UTF-8.*0xff"),
    "nul tsv": ("a.tsv", "text\tlabel\na\t1\nb\0\t2\nc\t2\n", 3, r"NUL byte \(character 2\)"),
    "not json": ("a.jsonl", '{"text": "a"}\n\n{"text": }\n{"text": "c"}', 3, "at column 10"),
    "list jsonl": ("a.jsonl", '{"text": "a"}\n\n["b"]\n{"text": "c"}', 3, "object, found a list"),
    "number jsonl": ("a.jsonl", '{"text": "a"}\n\n1\n{"text": "c"}', 3, "object, found a number"),
    "nan jsonl": ("a.jsonl", '{"x": 1}\n\n{"x": NaN}\n{"x": 2}', 3, "NaN, which is no finite"),
    "huge jsonl": ("a.jsonl", '{"x": 1}\n\n{"x": 1e999}\n{"x": 2}', 3, "1e999, which is no"),
    "twice jsonl": ("a.jsonl", '{"x": 1}\n\n{"x": 1, "x": 2}\n{"x": 2}', 3, "key 'x' twice"),
    "deep jsonl": ("a.jsonl", '{"x": 1}\n\n' + "[" * 99999 + '\n{"x": 2}', 3, "nested too deep"),
    "empty jsonl": ("a.jsonl", '{"x": 1}\n\n{}\n{"x": 2}', 3, "found an empty one"),
    "byte jsonl": ("a.jsonl", b'{"x": 1}\n\n{"x": "\x80"}\n{"x": 2}', 3, "UTF-8.*0x80"),
    "list json": ("a.json", '[{"x": 1},\n\n"b",\n{"x": 2}]', 3, "object, found a text"),
    "byte txt": ("a.txt", b"a\n\n\xc3\nc\n", 3, "UTF-8.*0xc3"),
    "ragged conll": ("a.conll", "a O\n\nb\nc B-x\n\nd O\n", 3, "2 columns .* found 1.*from line 3"),
    "long conll": ("a.conll", "a\tO\n\nb\tO\nb b\tO\tO\n\nd\tO\n", 4, "found 3.*from line 3"),
    "no token conll": ("a.conll", "a\tO\n\n\tO\n\nd\tO\n", 3, "every column, found an empty"),
    "byte conll": ("a.conll", b"a O\n\n\xe9 O\n\nd O\n", 3, "UTF-8.*0xe9"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_an_error_that_names_its_line_or_is_skipped_and_counted(write, case):
    name, content, line, message = BAD_ROWS[case]
    path = write(name, content)
    with pytest.raises(DataError, match=f"{name}:{line}: .*{message}.*on_bad_row"):
        read_file(path)
    with pytest.warns(DataWarning, match=f"skipped 1 of 3 rows, the first .*{name}:{line}"):
        table = read_file(path, on_bad_row="skip")
    assert len(table) == 2 and len(table.skipped) == 1
    assert table.skipped[0].startswith(f"{path}:{line}: ")


# Nothing of these can be used, whatever the policy.
BAD_FILES = {
    "empty": ("a.csv", "", "found an empty file"),
    "empty gz": ("a.csv.gz", "", "found an empty file"),
    "bom alone": ("a.txt", b"\xef\xbb\xbf", "expected rows of data, found none"),
    "empty parquet": ("a.parquet", "", "found an empty file"),
    "header only": ("a.csv", "text,label\n", "expected rows of data, found none"),
    "header only tsv": ("a.tsv", "text\tlabel", "expected rows of data, found none"),
    "blank csv": ("a.csv", "\n\n\n", "found only blank lines"),
    "blank jsonl": ("a.jsonl", "\n \n", "expected rows of data, found none"),
    "empty list": ("a.json", " [ ] ", "expected rows of data, found none"),
    "docstart only": ("a.conll", "-DOCSTART- O\n\n", "expected rows of data, found none"),
    "columns twice": ("a.csv", "text,text\na,b\n", "different names, found 'text' more than once"),
    "columns twice tsv": ("a.tsv", "a\ta\nb\tc\n", "different names, found 'a' more than once"),
    "byte in header": ("a.csv", b"t\xe9xt\na\n", ":1: expected UTF-8.*in the line of column"),
    "utf-16": ("a.csv", "text\na\n".encode("utf-16"), "found UTF-16. .*iconv"),
    "zip": ("a.csv", b"PK\x03\x04....", "found a zip archive"),
    "web page": ("a.tsv", "<!DOCTYPE html><html>", "found a web page"),
    "lfs": ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "parquet as csv": ("a.csv", b"PAR1....", 'parquet. Pass format="parquet"'),
    "csv as parquet": ("a.parquet", "text\na\n", "expected parquet, found a damaged or other"),
    "cut json": ("a.json", '[{"x": 1},\n{"x": ', ":2: expected JSON"),
    "cut json list": ("a.json", '[{"x": 1}\n', ":2: expected ',' or ']'.*end of the file"),
    "comma json": ("a.json", '[{"x": 1},]', ":1: expected JSON"),
    "more json": ("a.json", '[{"x": 1}] x', "found more after it"),
    "byte json": ("a.json", b'[{"x": 1},\n{"x": "\xff"}]', ":2: expected UTF-8"),
    "nan json": ("a.json", '[{"x": 1},\n{"x": NaN}]', ":2: expected JSON, found NaN, which is no"),
    "key twice json": ("a.json", '[{"x": 1},\n{"x": 1, "x": 2}]', ":2: .* the key 'x' twice"),
    "deep json": ("a.json", "[" * 99999, "nested too deeply"),
    "deep object": ("a.json", '{"a":' * 99999, "nested too deeply"),
}


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_without_usable_rows_is_an_error_under_both_policies(write, case, policy):
    name, content, message = BAD_FILES[case]
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_file(write(name, content), on_bad_row=policy)


def test_a_file_all_of_whose_rows_are_bad_is_an_error(write):
    with pytest.raises(DataError, match="found 2 rows, all bad, the first .*a.jsonl:1: expected"):
        read_file(write("a.jsonl", "x\ny\n"), on_bad_row="skip")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_quotes_commas_line_feeds_and_crlf(write, name):
    content = '\ufeffid,text\r\n1,"a, ""b"""\r\n\r\n2,"two\nlines"\r\n3,it\'s\r\n'
    table = read_file(write(name, content))
    assert table.columns == {"id": ["1", "2", "3"], "text": ['a, "b"', "two\nlines", "it's"]}
    assert [table.where(row).rpartition(":")[2] for row in range(3)] == ["2", "4", "6"]


def test_csv_takes_values_longer_than_pythons_limit(write):
    assert read_file(write("a.csv", "text\n" + "x" * 200_000))[0]["text"] == "x" * 200_000


def test_a_stray_quote_in_a_csv_costs_its_own_line_alone(write):
    # Taken as csv, the quotes of lines 3 and 6 enclose three good rows.
    path = write("a.csv", 'text,label\na,1\n"b,2\nc,3\nd,4\n"e,5\nf,6\n')
    with pytest.warns(DataWarning, match="skipped 2 of 6 rows"):
        table = read_file(path, on_bad_row="skip")
    assert table.columns["text"] == ["a", "c", "d", "f"]
    assert [place.split(":")[1] for place in table.skipped] == ["3", "6"]


def test_a_quoted_value_that_swallows_lines_costs_its_own_line_alone(write):
    path = write("a.csv", 'text,label\na,1\n"b,2\nc,3\nd,4"\ne,5\n')
    with pytest.raises(DataError, match="a.csv:3: expected 2 values .* in quotes up to line 5"):
        read_file(path)
    with pytest.warns(DataWarning, match="skipped 1 of 5 rows"):
        table = read_file(path, on_bad_row="skip")
    assert table.columns["text"] == ["a", "c", "d", "e"]


def test_tsv_takes_quotes_as_characters(write):
    table = read_file(write("a.tsv", 'text\tlabel\n"a\t1\nb "c" \'d\t2\n'))
    assert table.columns == {"text": ['"a', 'b "c" \'d'], "label": ["1", "2"]}


@pytest.mark.parametrize("name, content", [("a.csv", "a,1\nb,2\n"), ("a.tsv", "a\t1\nb\t2\n")])
def test_columns_names_those_of_a_file_without_header(write, name, content):
    table = read_file(write(name, content), columns=("text", "label"))
    assert table.columns == {"text": ["a", "b"], "label": ["1", "2"]}
    assert table.where(0).endswith(":1")
    with pytest.raises(DataError, match="different names"):
        read_file(write(name, content), columns=("text", "text"))


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_only_line_feeds_end_rows(write, separator):
    text = f"a{separator}b"
    for name, content in {
        "a.txt": text,
        "a.tsv": f"text\n{text}\n",
        "a.csv": f"text\n{text}\n",
        "a.jsonl": json.dumps({"text": text}, ensure_ascii=False),
    }.items():
        if name != "a.jsonl" or separator >= " ":  # JSON escapes control characters
            assert read_file(write(name, content)).columns == {"text": [text]}


def test_txt_has_a_text_a_line_and_skips_blank_ones(write):
    table = read_file(write("a.txt", "one\r\n\n  \n two \nthree"))
    assert table.columns == {"text": ["one", " two ", "three"]}
    assert [table.where(row)[-2:] for row in range(3)] == [":1", ":4", ":5"]


def test_jsonl_keeps_types_and_gives_none_where_a_row_has_no_value(write):
    lines = ['{"text": "a", "x": 1}', '{"text": null, "x": 0.5, "tokens": ["b", "c"]}']
    table = read_file(write("a.jsonl", "\ufeff" + "\r\n".join(lines)))
    assert table.columns == {
        "text": ["a", None],
        "x": [1, 0.5],
        "tokens": [None, ["b", "c"]],
    }
    with pytest.raises(DataError, match=r"a.jsonl:2: expected a value of 'text'"):
        table.require("x", "text")


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"},\n {"text": "b"}]\n',
        '{"text": "a"}\n{"text": "b"}\n',
        '\n[\n{"text": "a"}\n, {"text": "b"}]',
    ],
)
def test_json_is_a_list_of_objects_or_json_lines(write, content):
    table = read_file(write("a.json", content))
    assert table.columns == {"text": ["a", "b"]}
    line = 1 + content[: content.index('{"text": "b"')].count("\n")
    assert table.where(1).endswith(f"a.json:{line}")


def test_one_object_alone_is_one_row_however_it_is_spread(write):
    assert read_file(write("a.json", '{\n "text": "a"\n}')).columns == {"text": ["a"]}


def test_parquet_has_the_same_contents_as_json_lines(write, tmp_path):
    rows = [{"text": "ä", "tokens": ["a"], "label": 1}, {"text": None, "tokens": [], "label": 0}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    table = read_file(tmp_path / "a.parquet")
    lines = read_file(write("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert table.columns == lines.columns and table.fingerprint == lines.fingerprint
    assert table.where(1).endswith("a.parquet[1]")


@pytest.mark.parametrize(
    "bad, message",
    [
        (float("nan"), r"a.parquet\[1\]: column 'x': expected a finite number, found nan"),
        (b"b\xff", r"a.parquet\[1\]: column 'x': expected UTF-8, found the byte 0xff \(byte 2\)"),
    ],
)
def test_parquet_bad_values(tmp_path, bad, message):
    good = type(bad)()
    pyarrow.parquet.write_table(pyarrow.table({"x": [good, bad]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / "a.parquet")
    with pytest.warns(DataWarning, match="skipped 1 of 2"):
        table = read_file(tmp_path / "a.parquet", on_bad_row="skip")
    assert table.columns == {"x": ["" if isinstance(bad, bytes) else 0.0]}


def test_parquet_columns_twice_and_texts_that_are_none(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([[1], [2]], ["a", "a"]), path)
    with pytest.raises(DataError, match="columns of different names .* found 'a', 'a'"):
        read_file(path)
    broken = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    with pytest.raises(DataError, match=r"a.parquet\[1\]: column 'text': expected UTF-8"):
        read_file(path)


def test_a_gzip_file_cut_short_is_an_error_wherever_it_is_cut(write):
    whole = write("a.txt.gz", "".join(f"{number} words\n" for number in range(9999))).read_bytes()
    for name in ("a.txt.gz", "a.txt"):  # gzip is known by its first bytes
        for length in (5, 15, len(whole) // 2, len(whole) - 4):
            path = write("cut", whole[:length]).replace(write(name, "x"))
            with pytest.raises(DataError, match="expected a whole gzip file"):
                read_file(path, on_bad_row="skip")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    with pytest.raises(DataError, match="expected a whole gzip file"):
        read_file(write("b", bytes(damaged)).replace(write("b.txt", "x")))
    for content, message in ((b"text", "expected gzip by its name"), (b"", "found an empty file")):
        with pytest.raises(DataError, match=message):
            read_file(write("c", content).replace(write("c.txt.gz", "x")))


def test_conll_columns(write):
    content = (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n \n"
        "Peter NNP B-NP B-PER\r\n\r\n-DOCSTART- -X- -X- O\n\n\u00a0x NN O O"
    )
    table = read_file(write("a.conll", content))
    assert table.columns["tokens"] == [["EU", "rejects"], ["Peter"], ["\u00a0x"]]
    assert table.columns["tags"] == [["B-ORG", "O"], ["B-PER"], ["O"]]
    assert [table.where(row).rpartition(":")[2] for row in range(3)] == ["3", "6", "10"]
    assert read_file(write("a.conll", content), tag_column=1)[0]["tags"] == ["NNP", "VBZ"]
    swapped = read_file(write("a.conll", content), token_column=3, tag_column=0)
    assert swapped[0] == {"tokens": ["B-ORG", "O"], "tags": ["EU", "rejects"]}
    for columns in ({"tag_column": 4}, {"token_column": -5}):
        with pytest.raises(DataError, match=r"a.conll:3: expected a column.*found 4 columns"):
            read_file(write("a.conll", content), **columns)
    with pytest.raises(DataError, match="are both column"):
        read_file(write("a.conll", content), tag_column=0)


def test_conll_with_tabs_takes_spaces_in_words_and_blank_lines_of_tabs(write):
    table = read_file(write("a.conll", "New York\tB-x\nis\tO \n\t\nbig\tO\n"))
    assert table.columns == {"tokens": [["New York", "is"], ["big"]], "tags": [["B-x", "O"], ["O"]]}


def test_conll_of_one_column_has_no_tags_and_says_so(write):
    table = read_file(write("a.conll", "a\nb\n\nc\n"))
    assert table.columns == {"tokens": [["a", "b"], ["c"]]}
    with pytest.raises(DataError, match="neither trained on nor evaluated"):
        table.require("tokens", "tags")


def test_wrong_paths_formats_and_options_say_what_would_be_right(write, tmp_path):
    path = write("train.jsonl", '{"a": 1}')
    with pytest.raises(DataNotFoundError, match="no such file. Beside it there is train.jsonl"):
        read_file(tmp_path / "trian.jsonl")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        read_file(tmp_path / "none" / "a.parquet")
    with pytest.raises(DataError, match="found a directory"):
        read_file(tmp_path, "csv")
    with pytest.raises(DataError, match=r"ends in .csv, .tsv,.* found '.annotated'. Pass format="):
        read_file(write("a.annotated", "x"))
    with pytest.raises(ValueError, match=r"format is 'jsnl', expected one of .* Nearest: 'jsonl'"):
        read_file(path, "jsnl")
    with pytest.raises(ValueError, match="on_bad_row is 'ignore', expected 'error' or 'skip'"):
        read_file(path, on_bad_row="ignore")
    with pytest.raises(ValueError, match="columns= has no meaning for the format 'jsonl'"):
        read_file(path, columns=("a",))
    assert set(FORMATS) >= {"csv", "tsv", "jsonl", "json", "parquet", "txt", "conll", "squad"}


def test_reading_needs_pyarrow_for_parquet_alone(write, tmp_path):
    csv = write("a.csv", "text\na\n")
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "a.parquet")
    code = f"""
import sys
sys.modules["pyarrow"] = None
from jbert.data.files import read_file
assert len(read_file({str(csv)!r})) == 1
try:
    read_file({str(tmp_path / "a.parquet")!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'jbert[data]'" in done.stdout, done.stderr
