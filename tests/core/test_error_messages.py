import re
from itertools import pairwise

import pytest
import yaml
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from tlab.core.error_messages import closest, exit_code, is_mistake, known_as, user_message
from tlab.core.errors import UserError


def chain(*errors: BaseException) -> BaseException:
    """Each error was raised from the next one."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_a_sentence_of_ours_counts_whatever_it_came_from():
    error = chain(InstantiationException("full_key: backbone"), UserError("give a file"), OSError("no network"))
    assert is_mistake(error)
    assert user_message(error) == "give a file"


def test_arguments_that_were_refused_name_the_node():
    error = chain(
        InstantiationException("Error in call\nfull_key: aug.transforms.crop"), TypeError("no argument 'x'")
    )
    assert is_mistake(error)
    assert user_message(error).startswith("aug.transforms.crop could not be built (no argument 'x')")


def test_a_bug_is_no_mistake_of_the_user():
    assert not is_mistake(chain(InstantiationException("full_key: data"), ZeroDivisionError()))
    assert not is_mistake(RuntimeError())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lr", "optimizer.lr=1"),
        ("img_size", "data.image_size=1"),
        ("model", "backbone=1"),
        ("gpu", "trainer=gpu"),
        ("n_trials", None),
        ("device", None),
    ],
)
def test_a_name_of_another_tool_hints_at_the_key_that_there_is(name, hint):
    tree = OmegaConf.create({"optimizer": {"lr": 0}, "data": {"image_size": "???"}, "backbone": {}, "trainer": {}})
    OmegaConf.set_struct(tree, True)
    assert known_as(name, tree, suffix="=1") == (hint and f", did you mean {hint}")


@pytest.mark.parametrize(
    ("word", "close"), [("LP-FT", "lp_ft"), ("resnet_18", "resnet18"), ("AdamW", "adamw"), ("zzz", None)]
)
def test_capitals_and_hyphens_are_no_other_name(word, close):
    assert closest(word, ["lp_ft", "resnet18", "resnet101", "adamw", "sgd"]) == close


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\nb:\n\tc: 2\n", "bad.yaml, line 3, column 1: .*a tab"),
        ("a: [1\nb: 2", "bad.yaml, line 2, column 2"),
        ("a: 1\na: 2", "bad.yaml, line 2, .*duplicate key"),
        ("a: \x07", "bad.yaml: .*special characters"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(content, words, tmp_path):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(yaml.YAMLError) as raised:
        OmegaConf.load(tmp_path / "bad.yaml")
    assert is_mistake(raised.value)
    assert re.search(words, user_message(raised.value))
    assert exit_code(raised.value) == 2
