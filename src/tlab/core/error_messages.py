"""Turns a user's mistake into one sentence that names the key or file at fault and the remedy."""

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import yaml
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tlab.core.errors import FAILED, MISTAKEN, RunFailed, UserError
from tlab.core.machine_failures import machine_failure
from tlab.core.text import shell_word

CLOSED_BY = {"[": "]", "{": "}", "(": ")"}
# Names that users of other tools give to keys -> what is meant, maybe with its value: the first that a command has
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epochs", "n_epochs", "num_epochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("bs", "batch"), ("data.batch_size", "batch_size")),
    **dict.fromkeys(("img_size", "imgsz", "size", "input_size", "resolution"), ("data.image_size",)),
    **dict.fromkeys(("workers", "n_workers"), ("data.num_workers", "num_workers")),
    **dict.fromkeys(("arch", "model", "net", "network"), ("backbone", "run")),
    **dict.fromkeys(("ckpt", "checkpoint"), ("run",)),
    "device": ("trainer.accelerator", "accelerator"),
    "gpu": ("trainer=gpu", "accelerator=gpu"),
    "gpus": ("trainer.devices",),
    **dict.fromkeys(("dataset", "data_dir", "data_path", "path"), ("data.root",)),
    **dict.fromkeys(("augment", "augmentation", "augmentations"), ("aug",)),
    "learning_rate": ("optimizer.lr",),
    "wd": ("optimizer.weight_decay",),
    **dict.fromkeys(("n_trials", "num_trials", "trials"), ("budget.trials",)),
}
LONGEST = 200  # characters of another library's error in a line of ours


def exit_with_error(message: str, code: int = MISTAKEN) -> NoReturn:
    """Print one sentence to standard error and exit."""
    print(f"tlab: {message}", file=sys.stderr)
    sys.exit(code)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error with a sentence: 1 where a run failed or the machine refused, else 2."""
    cause = _cause(error)
    if isinstance(cause, UserError):
        return cause.exit_code
    return MISTAKEN if machine_failure(cause) is None else FAILED


def is_mistake(error: BaseException) -> bool:
    """Tell whether there is a sentence for `error`: a mistake of the user, or what the machine refused.

    A failed instantiation is a mistake only if its arguments were refused.
    """
    cause = _cause(error)
    if isinstance(cause, UserError) or machine_failure(cause) is not None:
        return True
    if isinstance(error, InstantiationException):
        return isinstance(cause, TypeError | ValueError | ImportError | AttributeError)
    return isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError)


def user_message(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """Return what went wrong and the remedy, as one sentence.

    Args:
        error: The mistake.
        arguments: The command's arguments, whose values the remedy repeats.
    """
    typed = {key.lstrip("+"): value for key, equals, value in (one.partition("=") for one in arguments) if equals}
    cause = _cause(error)
    if isinstance(cause, UserError):
        return str(cause)
    if (failure := machine_failure(cause)) is not None:
        return failure
    if isinstance(error, yaml.YAMLError):
        return _yaml_sentence(error)
    if isinstance(error, InstantiationException):
        key = _search(r"full_key: (\S+)", str(error)) or "the configuration"
        what = str(cause).strip().split("\n")[0] or type(cause).__name__
        return f"{key} could not be built ({what}); correct its keys or its _target_"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options or [] if not option.startswith("_")]
        if group:
            return f"{group}={choice} is not a choice of the group {group}{_suggest(choice, options, f'{group}=')}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; {_readable(error.override)}"
    if several := _search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", str(error)):
        key, _, value = several.partition("=")
        if re.fullmatch(r"\d+(,[1-9]\d*)+", value) and not value.startswith("0,"):
            return f"{several} has several values, each for a run; give -m too"
        decimal = re.fullmatch(r"[-+]?\d+,\d+(e[-+]?\d+)?", value)  # 0,001 in most of Europe
        text = value.replace(",", ".") if decimal else QuotedString(value, Quote.double).with_quotes()
        one = shell_word(f"{key}={text}")
        return f"{several} has several values, each for a run; give -m too, or, if it is one, {one}"
    return _configuration_sentence(error, typed)


def as_told(error: BaseException) -> UserError:
    """Return the error with its sentence alone, for another process to raise."""
    return (UserError if exit_code(error) == MISTAKEN else RunFailed)(user_message(error))


def _yaml_sentence(error: yaml.YAMLError) -> str:
    """Return where a YAML file cannot be read, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        place, why = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}", error.problem or error.context
    else:  # a character that YAML does not allow
        place, why = str(getattr(error, "name", "a file")), str(error).split("\n")[0]
    why = "a tab where only spaces may stand" if "'\\t'" in str(why) else why
    return f"{place}: this is no YAML ({why}); correct it there"


def _readable(override: str) -> str:
    """Return how to type an override that Hydra cannot read: with its brackets closed."""
    _, equals, value = override.partition("=")
    if not equals:
        return "write KEY=VALUE"
    open_: list[str] = []
    for character in re.sub(r"'[^']*'|\"[^\"]*\"", "", value):
        if character in CLOSED_BY:
            open_.append(CLOSED_BY[character])
        elif open_ and character == open_[-1]:
            open_.pop()
    return f"close its brackets and quotes, as in {shell_word(override + ''.join(reversed(open_)))}"


def _configuration_sentence(error: BaseException, typed: Mapping[str, str]) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause)
    key = getattr(cause, "full_key", None) or _search(r"full_key: (\S+)", text) or _search(r"'(.+?)'", text)
    where = _search(r"^In '(.+?)'", str(error))
    place = f" (in conf/{where}.yaml)" if where else ""
    if _search(r"(is not in struct|not in '\w+')", text):
        parent = getattr(cause, "parent_node", None)
        options = [str(k) for k in parent if not str(k).startswith("_")] if isinstance(parent, DictConfig) else []
        group, dot, name = str(key).rpartition(".")
        given = f"={typed[str(key)]}" if str(key) in typed else ""
        hint = known_as(name, parent, group + dot, given) if isinstance(parent, DictConfig) else None
        hint = hint or _suggest(name, options, group + dot, given)
        return f"{key} is not a key of the configuration{place}{hint}"
    wrong = r"Value .+? (?:could not be converted to \w+|is not a valid bool)|Cannot convert .+? to string"
    if value := _search(rf"^(?:.*\n)?({wrong})", text):
        return f"{key} has the wrong type{place}: {value[0].lower() + value[1:]}"
    if "Missing mandatory value" in text or "MissingMandatoryValue" in type(cause).__name__:
        return f"{key} is not set; give it on the command line as {key}=VALUE"
    return " ".join(text.split("\n")[0].split()) + f"{place}; see --help"


def known_as(name: str, node: DictConfig, prefix: str = "", suffix: str = "") -> str | None:
    """Return a hint at the key that another tool gives this name, or that has it one level deeper (`optimizer.lr`).

    Args:
        name: Name that is no key of the node.
        node: The configuration, or the part of it where the key was looked for.
        prefix: What stands before the key, as typed.
        suffix: What stands behind it: `=VALUE`, or nothing.
    """
    nested = [f"{key}.{name}" for key in map(str, node)]
    for meant in (*OTHER_NAMES.get(name, ()), *nested):
        key, equals, _ = meant.partition("=")
        group, _, last = key.rpartition(".")
        parent = node if not group else node._get_node(group) if group in node else None
        if isinstance(parent, DictConfig) and last in parent.keys():  # noqa: SIM118 - also one that is not set
            return f", did you mean {shell_word(prefix + meant + ('' if equals else suffix))}"
    return None


def _suggest(word: str, options: Sequence[str], prefix: str = "", suffix: str = "") -> str:
    """Return a hint: the closest option, as typed with what stands before and behind it, then all options."""
    if not options:
        return "; see --help or --cfg job for what there is"
    close = closest(word, options)
    near = f", did you mean {shell_word(prefix + close + suffix)}" if close else ""
    return f"{near}; there are {', '.join(sorted(options))}"


def closest(word: str, options: Iterable[str]) -> str | None:
    """Return the option that is most like a word, whose capitals, hyphens and underscores do not count."""
    plain = {bare(option): option for option in options}
    close = difflib.get_close_matches(bare(word), plain, n=1)
    return plain[close[0]] if close else None


def bare(name: str) -> str:
    """Return a name in small letters, without hyphens and underscores."""
    return re.sub(r"[-_ ]", "", name.lower())


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, flags=re.MULTILINE)
    return match.group(1) if match else None


def _cause(error: BaseException) -> BaseException:
    """Return the root cause of a failed instantiation, or a UserError on the way to it; else the error itself."""
    if isinstance(error, InstantiationException):
        while error.__cause__ is not None and not isinstance(error, UserError):
            error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """Return the sentence of a mistake, else the error's type and the first line of its text."""
    if is_mistake(error):
        return user_message(error)
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(": ")[:LONGEST]
