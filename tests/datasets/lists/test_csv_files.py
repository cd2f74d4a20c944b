"""CSV files as spreadsheet programs write them: read, or refused with the line and a command that corrects them."""

from __future__ import annotations

import subprocess
import unicodedata

import pytest

from avpref.datasets.lists.csv_rows import data_rows
from avpref.datasets.lists.listed_files import locate
from avpref.errors import InputError, TableError

ROWS = [("a.mp4", "one, two"), ("é.mp4", "drei"), ("b.mp4", "two\nlines")]
QUOTED = [f'"{file}"{{0}}"{text}"' for file, text in ROWS]


def read(path, optional=("taxonomy",)):
    return list(data_rows(path, ("file", "text"), optional))


def pairs(path):
    return [(row.get("file"), row.get("text")) for row in read(path)]


def content(separator=","):
    return "\n".join(row.format(separator) for row in [f"file{separator}text", *QUOTED]) + "\n"


def run_fix(error, folder, encoding="WINDOWS-1252"):
    """Run the suggested shell command; returns the corrected file."""
    before = set(folder.iterdir())
    command = error.value.fix.removeprefix("the first line is a row; add a header: ").partition(" (or with ")[0]
    subprocess.run(["bash", "-c", command.replace("WINDOWS-1252", encoding)], check=True)
    (made,) = set(folder.iterdir()) - before
    return made


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_separators_and_line_ends(tmp_path, separator, encoding, line_end):
    text = content(separator)
    text = text if line_end == "\n" else text.replace("two\nlines", "two lines").replace("\n", line_end)
    mark = "﻿" if encoding == "utf-16-be" else ""
    path = tmp_path / "clips.csv"
    path.write_bytes((mark + text).encode(encoding))
    assert [(file, text.replace("\n", " ")) for file, text in pairs(path)] == [
        (file, text.replace("\n", " ")) for file, text in ROWS
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_header_whose_names_are_quoted(tmp_path, separator):
    path = tmp_path / "clips.csv"
    path.write_text(content(separator).replace(f"file{separator}text", f'"file"{separator}"text"'), encoding="utf-8")
    assert pairs(path) == ROWS


def test_a_separator_that_the_first_line_announces(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("sep=;\n" + content(";"))
    assert pairs(path) == ROWS
    assert [row.line for row in read(path)] == [3, 4, 6]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252", "cp932"])
def test_the_command_for_another_encoding_works(tmp_path, encoding):
    path = tmp_path / "my clips.csv"
    words = "ネコ" if encoding == "cp932" else "né"
    path.write_bytes(f"file,text\na.mp4,fine\nb.mp4,{words}\n".encode(encoding))
    with pytest.raises(TableError) as error:
        read(path)
    assert ("UTF-16" in error.value.found) == encoding.startswith("utf-16")
    assert encoding.startswith("utf-16") or "line 3" in error.value.found
    assert ("CP932" in error.value.fix) == (encoding == "cp932") and (words in error.value.found) == (
        encoding[:2] == "cp"
    )
    made = run_fix(error, tmp_path, "CP932" if encoding == "cp932" else "WINDOWS-1252")
    assert pairs(made) == [("a.mp4", "fine"), ("b.mp4", words)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("File,TEXT", "unknown column 'File' (did you mean 'file'?)"),
        (" file,text ", "unknown column ' file'"),
        ("file,txt", "unknown column 'txt' (did you mean 'text'?)"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_command_for_a_misspelt_header_works(tmp_path, header, message, encoding):
    path = tmp_path / "clips.csv"
    path.write_bytes(f"{header}\na.mp4,one\n".encode(encoding))
    with pytest.raises(TableError) as error:
        read(path)
    assert "line 1" in error.value.found and message in error.value.found
    assert pairs(run_fix(error, tmp_path)) == [("a.mp4", "one")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_the_command_for_another_column_works(tmp_path, encoding, separator):
    path = tmp_path / "it's clips.csv"
    rows = ["notes,File,text", '"x, y",a.mp4,"one; two"', ",b.mp4,"]
    text = "\n".join(rows) + "\n"
    if separator == ";":
        text = 'notes;File;text\n"x, y";a.mp4;"one; two"\n;b.mp4;\n'
    path.write_bytes(text.encode(encoding))
    with pytest.raises(TableError, match=r"line 1: .*unknown column 'notes'") as error:
        read(path)
    assert pairs(run_fix(error, tmp_path)) == [("a.mp4", "one; two"), ("b.mp4", "")]


def test_the_command_for_a_missing_header_works(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    path = tmp_path / "clips.csv"
    path.write_text("a.mp4,one\n")
    with pytest.raises(TableError, match="line 1: no column 'file'") as error:
        read(path)
    assert pairs(run_fix(error, tmp_path)) == [("a.mp4", "one")]


FAULTS = [
    ('x.mp4,"never closed', 'a quote (") that is opened and not closed'),
    ('x.mp4,"closed" here', "text after a closing quote"),
    ("x.mp4,one,two", "3 fields where the header has 2 (a comma outside quotes?)"),
    ("x.mp4", "1 fields where the header has 2"),
    ("x\0.mp4,one", "a NUL character in column 'file': x\\x00.mp4"),
    ("x.mp4,on\0e", "a NUL character in column 'text': on\\x00e"),
]


@pytest.mark.parametrize(("line", "fault"), FAULTS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_bad_row_costs_its_line_alone(tmp_path, line, fault, place):
    good = ["a.mp4,one", 'b.mp4,"two, three"', "c.mp4,four"]
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(["file,text", *good[:place], line, *good[place:]]) + "\n")
    rows = read(path)
    assert [row.get("file") for row in rows if not row.fault] == ["a.mp4", "b.mp4", "c.mp4"]
    (bad,) = [row for row in rows if row.fault]
    assert bad.line == place + 2 and bad.fault.startswith(fault) and "\0" not in bad.shown


def test_an_open_quote_in_the_header_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text('file,"text\na.mp4,one\n')
    with pytest.raises(TableError, match="line 1: a quote"):
        read(path)


# --- names of files -----------------------------------------------------------------------------------------------------


def reason_of(folder, file):
    with pytest.raises(InputError) as error:
        locate(folder, file)
    return error.value.found


def test_names_that_are_no_files(tmp_path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "first.mp4").symlink_to("second.mp4")
    (tmp_path / "second.mp4").symlink_to("first.mp4")
    (tmp_path / "dangling.mp4").symlink_to("gone.mp4")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert reason_of(tmp_path, "  ") == "no file named"
    assert reason_of(tmp_path, "gone.mp4") == reason_of(tmp_path, "a.mp4/b.mp4") == "no such file"
    assert reason_of(tmp_path, ".") == "a folder, not a file"
    assert "a name of 304: longer" in reason_of(tmp_path, "x" * 300 + ".mp4")
    assert "longer than" in reason_of(tmp_path, "/".join(["x" * 200] * 40))
    assert "not a file name" in reason_of(tmp_path, "a\0.mp4")
    for name in ("loop.mp4", "first.mp4"):
        assert reason_of(tmp_path, name) == "a link that leads back to itself"
    assert reason_of(tmp_path, "dangling.mp4") == "no such file: a link to gone.mp4, which does not exist"
    assert "backslashes" in reason_of(tmp_path, "clips\\a.mp4")


@pytest.mark.parametrize(
    ("on_disk", "listed", "difference"),
    [
        (
            unicodedata.normalize("NFD", "é'\"🐈.mp4"),
            unicodedata.normalize("NFC", "é'\"🐈.mp4"),
            "another Unicode form (NFD)",
        ),
        (unicodedata.normalize("NFC", "é.mp4"), unicodedata.normalize("NFD", "é.mp4"), "another Unicode form (NFC)"),
        ("a.mp4", "a.mp4 ", "'a.mp4', with other blanks"),
        ("a.mp4 ", "a.mp4", "'a.mp4 ', with other blanks"),
        ("A.MP4", "a.mp4", "'A.MP4', with other capitals"),
    ],
)
def test_the_command_for_a_similar_name_works(tmp_path, on_disk, listed, difference):
    (tmp_path / on_disk).write_bytes(b"x")
    reason = reason_of(tmp_path, listed)
    assert difference in reason
    command = reason.partition("to rename that file: ")[2]
    assert command.isascii()
    subprocess.run(["bash", "-c", command], check=True)
    assert locate(tmp_path, listed).read_bytes() == b"x"
