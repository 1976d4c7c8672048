"""Names that a stranger chose, on a terminal and in files."""

import os

import pytest

from port.messages import exit_status
from port.text import encodable, one_line, printable


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
