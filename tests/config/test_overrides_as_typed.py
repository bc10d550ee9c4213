"""What people type as values, and what tlab prints for them to type."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tlab.config.hydra import compose
from tlab.config.overrides import exclude_argument, shell_argument, tidy, values
from tlab.core.errors import UserError
from tlab.core.text import as_text

ODD = (
    *("фото", "café", "写真", "2024年", "мои фото", "nän", "fälse", "📷 album", "cafe\u0301", "caf\udce9", "a\nb"),
    *("photo[1]", "Corn_(maize)___blight", "Pepper,_bell", "lr=0.1", "a b", " a", "it's", "a{b}"),
    *("$HOME", "100%", "a#b", "a;b&c", "`id`", "!x", "a\\b", "a:b", "*?", "[", "(", "'", "\\", "~x"),
    *("true", "1e3", "007", "1_000", "-x"),
)
HYDRA = ("null", "choice(a,b)", "'a'", '"a"', r"a\ b")  # paths only where they exist


def data_root(value: str) -> Any:
    (argument,) = tidy([f"data.root={value}"])
    assert tidy([argument]) == [argument]
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("name", [*ODD, *HYDRA])
def test_any_path_is_taken_as_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name not in HYDRA:
        assert data_root(name) == name
    Path(name).mkdir()
    assert data_root(name) == name


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("~", "/nowhere/me"),
        ("~/мои фото", "/nowhere/me/мои фото"),
        ("'~/a'", "/nowhere/me/a"),
        ("a/~/b", "a/~/b"),
        ("'a, b'", "a, b"),
        (r"a\ b", "a b"),
        ("null", None),
        ("~/${run_dir}", "/nowhere/me/${run_dir}"),
    ],
)
def test_a_path_may_be_below_home_or_quoted_for_hydra(typed, path, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere/me")
    assert data_root(typed) == path
    assert tidy(["--config-dir=~/mine"]) == ["--config-dir=/nowhere/me/mine"]


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("train", "hydra.run.dir="),
        ("train", "hydra.sweep.dir= "),
        ("train", "data.root=''"),
        ("predict", "input="),
        ("predict", 'output=""'),
        ("evaluate", "+run="),
        ("compare", "sweep="),
    ],
)
def test_an_empty_path_is_not_the_current_folder(command, typed):
    with pytest.raises(UserError, match="is empty"):
        tidy([typed], command)


def test_a_path_below_another_one_may_be_empty():
    assert tidy(["data.images="]) == ["data.images="]


@pytest.mark.parametrize(
    ("typed", "each"),
    [
        ("data.root=фото,~/a b", ["фото", "/nowhere/me/a b"]),
        ("data.root=choice(~/a, 'b,c')", ["/nowhere/me/a", "b,c"]),
        ("data.label_column=标签,ярлык", ["标签", "ярлык"]),
        ("name=a=b,c", ["a=b", "c"]),
        ("hydra.sweep.dir=a,b", ["a,b"]),
        ("sweep=a,b", ["a,b"]),
    ],
)
def test_each_value_of_a_sweep_is_one(typed, each, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere/me")
    flag, argument = tidy([typed, "-m"])
    assert (flag, values(OverridesParser.create().parse_override(argument))) == ("-m", each)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.exclude=[собака,a=b, Corn_(maize),'x,y']", "data.exclude", ["собака", "a=b", "Corn_(maize)", "x,y"]),
        ("data.exclude=[]", "data.exclude", []),
        ("data.exclude=c", "data.exclude", ["c"]),
        ("data.exclude=7", "data.exclude", ["7"]),
        ("data.exclude=*/a (1).gif", "data.exclude", ["*/a (1).gif"]),
        ("head.reuse={пчёлы: bee, 写真: (a)}", "head.reuse", {"пчёлы": "bee", "写真": "(a)"}),
        ("sweep=имя", "sweep", "имя"),
        ("sweep=a=b", "sweep", "a=b"),
        ("sweep=my (first)", "sweep", "my (first)"),
        ("+optimizer.ключ=fälse", "optimizer.ключ", "fälse"),
    ],
)
def test_other_values_need_no_quotes_either(override, key, value):
    cfg = compose(["run_dir=x", "data.root=x", override])
    assert OmegaConf.select(cfg, key) == value


def test_flags_may_stand_anywhere_and_lines_end_as_on_windows():
    typed = [
        "seed=1",
        "--config-dir",
        "a=b",
        "data=demo",
        "-cd=c",
        "--cfg",
        "job",
        "aug=light",
        "-m",
        "-m",
        "seed=2\r",
    ]
    flags = ["--config-dir", "a=b", "-cd=c", "--cfg", "job", "-m"]
    assert tidy(typed) == [*flags, "seed=1", "data=demo", "aug=light", "seed=2"]


@pytest.mark.parametrize("typed", [["--data.root=a b"], ["--data.root", "a b"]])
def test_a_setting_behind_dashes_is_told_without_them(typed):
    with pytest.raises(UserError, match=r"give 'data\.root=a b'$"):
        tidy(["aug=light", *typed])


@pytest.mark.parametrize("override", ["data.exclude=[a,b", "data.exclude=[a,'b]", "optimizer.lr=interval(0.1"])
def test_a_broken_list_is_left_to_hydra_which_names_it(override):
    assert tidy([override]) == [override]


def test_an_argument_of_any_text_or_list_works_in_bash(pasted):
    """All texts in one process of bash, which costs more than what it does."""
    texts = pasted(" ".join(shell_argument("data.root", name) for name in [*ODD, *HYDRA]))
    assert [data_root(each.partition("=")[2]) for each in texts] == [*ODD, *HYDRA]
    values = [{"data.exclude": list(ODD)}, {"head.reuse": {"пчёлы": "a (b)"}}, {"data.limit": None}]
    printed = pasted(" ".join(shell_argument(key, value) for each in values for key, value in each.items()))
    cfg = compose(["run_dir=x", "data.root=x", *printed[:2]])
    assert (cfg.data.exclude, cfg.head.reuse) == ([as_text(name) for name in ODD], {"пчёлы": "a (b)"})
    assert printed[2] == "data.limit=null"


def test_names_to_leave_out_are_no_patterns():
    assert exclude_argument(["photo[1].gif", "a*"]) == """'data.exclude=["photo[[]1].gif", "a[*]"]'"""
    assert exclude_argument(["notes"]) == "'data.exclude=[notes]'"
