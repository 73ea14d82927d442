"""Rows and ids that commands read from files."""

from pathlib import Path

import pytest

from ray_mlops.cli.text_files import read_json_lines, read_text
from ray_mlops.errors import RequestError


def test_rows_are_read_and_blank_lines_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"x": 1}\r\n\n{"x": NaN, "c": "gr\xc3\xbcn\xe2\x80\xa8"}\n')
    rows = read_json_lines(str(file))
    assert [set(row) for row in rows] == [{"x"}, {"x", "c"}]
    assert rows[1]["c"] == "grün\u2028"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "there are no rows"),
        (b'{"x": 1}\n{"x": ', "line 2: is not JSON"),
        (b"[1, 2]\n", "line 1: expected an object of columns, got list"),
        (b'{"x": 1000000000000000000000000}', "line 1: cannot be sent: Integer exceeds 64-bit range"),
        (b'{"x": "\\ud800"}', "line 1: cannot be sent: .*surrogates"),
        (b"[" * 100_000, "line 1: .*recursion"),
        (b'{"x": "\xff"}\n', "is not UTF-8 text: .* byte 7"),
    ],
)
def test_rows_that_are_none_name_the_file_and_the_line(tmp_path: Path, content: bytes, text: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=rf"rows\.jsonl.*{text}"):
        read_json_lines(str(file))


def test_file_that_is_missing_or_a_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing\.txt: cannot be read: No such file"):
        read_text(str(tmp_path / "nothing.txt"))
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        read_text(str(tmp_path))
