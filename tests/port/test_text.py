"""Names that a stranger chose, on a terminal and in files."""

import os

import pytest

from port.messages import exit_status
from port.text import counted, cut, encodable, file_size, one_line, plural, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ångström 犬 🐕 [bold]", "Ångström 犬 🐕 [bold]"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),  # turns round what follows
        ("a\rb\x0b\x85\u2028", r"a\rb\x0b\x85\u2028"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_what_moves_the_cursor_is_spelt_out(text, shown):
    assert printable(text) == one_line(text) == shown
    assert printable(f"{text}\n2") == f"{shown}\n2"
    assert one_line(f"{text}\n2") == rf"{shown}\n2"


def test_bytes_that_are_no_text_are_spelt_out():
    assert encodable(os.fsdecode(b"caf\xe9\x1b")) == "caf\\xe9\x1b"
    assert encodable("犬\n") == "犬\n"


def test_mistakes_are_printed_so(capsys):
    def fail():
        raise ValueError("no \x1b[2J here;\n  but there")

    assert exit_status(fail) == 2
    assert capsys.readouterr().err == "error: no \\x1b[2J here;\n  but there\n"


def test_numbers_have_their_units_and_nouns_their_number():
    sizes = {0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1 kB", 412_749: "412.7 kB", 999_949: "999.9 kB"}
    sizes |= {999_960: "1 MB", 94_570_000: "94.57 MB", 5 * 10**12: "5000 GB"}
    assert {count: file_size(count) for count in sizes} == sizes
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [f"{n:.4g} {plural(n, 'class')}" for n in (1.0, 1.5)] == ["1 class", "1.5 classes"]
    assert [cut(text, 4) for text in ("", "abcd", "abcde")] == ["", "abcd", "abc…"]
