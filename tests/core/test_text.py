"""Names of files as text, and as words of bash."""

import shlex
import subprocess

import pytest

from tlab.core.text import as_text, counted, shell_word


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


@pytest.mark.parametrize("text", ["a b", "it's", "caf\udce9 'x' \\", "a\nb", "\r", "кошка\t", "$x `y`", "~", ""])
def test_a_word_of_bash(text):
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {shell_word(text)}"], capture_output=True, check=True
    ).stdout
    assert printed == text.encode("utf-8", "surrogateescape")
    assert shell_word(text).isprintable()
    if "\udce9" not in text and text.isprintable():
        assert shell_word(text) == shlex.quote(text)


def test_a_number_has_the_noun_that_it_takes():
    assert [counted(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert [counted("a" * number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
