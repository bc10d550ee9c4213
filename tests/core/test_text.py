"""Text for files and terminals of any encoding."""

import io
import shlex
import subprocess
import sys

import pytest

from tlab.core.text import as_text, print_whatever_comes, shell_word


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a b.jpg", "a b.jpg"),
        ("café", "café"),
        ("caf\udce9", r"caf\xe9"),
        ("caf\udcc3\udca9 \udcff", r"café \xff"),  # as a locale that is not UTF-8 reads it
        ("\ud800", r"\ud800"),
    ],
)
def test_a_name_is_the_same_text_in_every_locale(name, text):
    assert as_text(name) == text == as_text(text)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "1–2 × кошка café \\xe9"),
        ("latin-1", r"1-2 × \u043a\u043e\u0448\u043a\u0430 café \xe9"),
        ("ascii", r"1-2 x \u043a\u043e\u0448\u043a\u0430 caf\xe9 \xe9"),
    ],
)
def test_a_terminal_gets_what_it_can_show(encoding, printed, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # without an encoding, as in a notebook
    print_whatever_comes()
    print("1–2 × кошка café \udce9", end="", flush=True)
    assert shown.getvalue().decode(encoding) == printed


@pytest.mark.parametrize("text", ["a b", "it's", "caf\udce9 'x' \\", "a\nb", "\r", "кошка\t", "$x `y`", "~", ""])
def test_a_word_of_bash(text):
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {shell_word(text)}"], capture_output=True, check=True
    ).stdout
    assert printed == text.encode("utf-8", "surrogateescape")
    assert shell_word(text).isprintable()
    if "\udce9" not in text and text.isprintable():
        assert shell_word(text) == shlex.quote(text)
