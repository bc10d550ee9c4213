from itertools import pairwise

from hydra.errors import InstantiationException

from tlab.core.error_messages import is_mistake, user_message
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
