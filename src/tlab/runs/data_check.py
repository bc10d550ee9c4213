"""Check that a run's images are still the same."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tlab.core.errors import ImagesGone, RunDirectoryConflict, UserError
from tlab.core.processes import first_process
from tlab.core.text import as_text, counted, few
from tlab.data.changes import changes, class_changes
from tlab.data.contents import Contents, Membership, as_far_as_known, keeping_order, read_contents, read_entries
from tlab.data.decode_options import DEFAULTS, DecodeOptions
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.verify import CHECK_SECONDS
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)

TESTS_GONE = "the images are gone of the further tests %s, which were measured: their results stay"
UNLISTED = (
    "there is no list of the images so far (data.csv, which earlier versions of tlab did not keep): their classes "
    "and numbers are the same, but whether they are the same images cannot be told"
)


def check_images(
    run: RunDirectory,
    source: Callable[[], ImageIndex],
    resume: str,
    elsewhere: str = "another hydra.run.dir=DIR (of a sweep: sweep=NAME)",
    options: DecodeOptions = DEFAULTS,
    seconds: float | None = CHECK_SECONDS,
) -> list[str]:
    """Refuse to resume a run, or to return its result, with other images than it has had.

    The same files in another place or with other times are the same images.

    Args:
        run: Directory of a run that has a checkpoint or is finished.
        source: Function that indexes the current images.
        resume: `anyway` lets other images pass, as long as the classes are the same; see `warn_of`.
        elsewhere: Override that gives a new run with these settings its place, for the message.
        options: Which files are readable.
        seconds: What a check of the files may take.

    Returns:
        Phrases for what has changed; empty where nothing has.

    Raises:
        RunDirectoryConflict: The images have changed.
        ImagesGone: The data cannot be used.
        UserError: `data.csv` cannot be read.
    """
    record = run.record
    classes = tuple(map(as_text, record.get("class_names", ())))
    source = keeping_order(source, classes)
    try:
        index = source()
    except UserError as error:
        raise ImagesGone(str(error)) from error
    source = partial(lambda found: found, index)
    if run.data_file.exists():
        entries = read_entries(run.data_file)
        before = Contents(classes or tuple(sorted({entry.label for entry in entries})), entries)
        members = membership(run)
        now = read_contents(source, False, options, members, seconds)
        one, other = as_far_as_known(before, now)
        if one.classes == other.classes and set(one.entries) == set(other.entries):
            return []
        now = read_contents(source, True, options, members, seconds)  # says which of the files are no images
        changed = changes(before, now)
    else:
        now = read_contents(source, True, options, seconds=seconds)
        changed = _by_number(record, classes, now)
        if not changed and first_process():
            log.warning(UNLISTED)
    if not changed:
        return []
    if classes not in ((), now.classes):
        way_out = f"since its head is for the classes {few(classes)}"
    elif resume == "anyway":
        return changed
    else:
        purpose = "have its result" if record.get("status") == "finished" else "resume"
        way_out = f"or resume=anyway to {purpose} all the same"
    raise RunDirectoryConflict(
        f"{run.path} has had other images than there are now: {', '.join(changed)}; give {elsewhere}, {way_out}"
    )


def warn_of(changed: Sequence[str]) -> None:
    """Warn of changes of the images that `resume=anyway` lets pass."""
    if changed and first_process():
        log.warning("resume=anyway, although the images are others than before: %s", ", ".join(changed))


def membership(run: RunDirectory) -> Membership:
    """Return which images a run has that a check had passed over, and which it has not.

    Raises:
        UserError: One of its tables cannot be read.
    """
    data = run.record.get("data", {})
    if "root" not in data or not run.data_file.exists():
        return Membership()
    entries = read_entries(run.data_file)
    listed, root = {entry.path for entry in entries}, f"{data['root']}/"
    unreadable = {as_text(path.removeprefix(root)): reason for path, reason in run.unreadable().items()}
    return Membership(
        frozenset(entry.path for entry in entries if not entry.digest),
        {path: reason for path, reason in unreadable.items() if path not in listed},
    )


def unmeasured(run: RunDirectory, tests: Mapping[str, str]) -> dict[str, str]:
    """Return those of further tests of which a run has no result yet, or one on other images.

    Args:
        run: Directory of the run.
        tests: Name -> fingerprint, see `data.sources.evaluation_sources.fingerprints`.
    """
    done = run.record.get("tests", {})
    return {name: now for name, now in tests.items() if done.get(name, {}).get("fingerprint") != now}


def measured_tests(run: RunDirectory) -> dict[str, str]:
    """Return name -> folder, absolute, of the further tests of which a run has a result."""
    tests = run.record["config"]["data"].get("tests") or {}
    return {name: root for name, root in tests.items() if name in run.record.get("tests", {})}


def _by_number(record: dict[str, Any], classes: tuple[str, ...], now: Contents) -> list[str]:
    """Return how classes and numbers of images differ from those in `run.json`, as far as it tells."""
    if "data" not in record:
        return []
    had, have = record["data"]["images"], now.numbers()
    return [
        *class_changes(classes, now.classes),
        *(
            f"{counted(have.get(split, 0), 'image')} in {split}, not {had.get(split, 0)}"
            for split in {**had, **have}
            if have.get(split, 0) != had.get(split, 0)
        ),
    ]
