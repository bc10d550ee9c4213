"""How a sweep resumes: the runs that are finished, on the images that there are now, are passed over.

`tlab.train` resumes the others from their last checkpoints (`runs/checkpoints.py`), or begins them.
"""

import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tlab.config.digest import config_digest
from tlab.config.overrides import key_and_value
from tlab.config.safe_loading import inert, read_node
from tlab.core.error_messages import is_mistake
from tlab.core.text import as_text, few
from tlab.data.contents import Contents, read_contents, read_entries
from tlab.data.sources.evaluation_sources import fingerprints, sources_of_tests, without_missing
from tlab.runs.data_check import TESTS_GONE, UNLISTED, measured_tests, unmeasured
from tlab.runs.directory import RunDirectory
from tlab.sweeps.jobs import Job

# arguments of a source that leave the images the same, unless it has a limit
ONLY_SPLIT = ("seed", "val_fraction", "test_fraction", "group", "folds", "fold")
TABLE = "tlab.data.sources.csv_table.csv_index"
SPLITTING = ("tlab.data.sources.folder.folder_index", TABLE)  # sources of which that is true
# Arguments with which other cells of a table divide the same images otherwise
OF_CELLS = ("split_column", "group")


class Finished:
    """Tells which runs are finished, without composing their configurations, and looks at the images once.

    Args:
        sources: Digest from `tlab.config.digest.sources_digest`.
    """

    def __init__(self, sources: str | None) -> None:
        self._sources = sources
        self._seen: dict[str, tuple[str, tuple[str, ...], int]] = {}
        self._tests: dict[str, dict[str, str]] = {}
        self._warned = False
        self._gone: set[str] = set()  # further tests that it has warned of
        self._lock = threading.Lock()

    def has(self, job: Job) -> bool:
        """Tell whether this very run is finished, as far as can be told so; else `tlab.train` can tell."""
        record, known = job.run.record, config_digest(job.overrides, self._sources)
        if record.get("status") != "finished" or known is None or record.get("composition") != known:
            return False
        if "data" not in record or dict(map(key_and_value, job.overrides)).get("resume") == "never":
            return False
        try:
            lacks = job.run.lacking(record["config"]) or self._unmeasured(job)
            return not lacks and self.are_present(job.run, job.overrides)
        except Exception as error:
            if not is_mistake(error):
                raise
            return False

    def are_present(self, run: RunDirectory, overrides: Iterable[str]) -> bool:
        """Tell whether the images of a run are those that there are now, as far as their fingerprints tell.

        Args:
            run: Directory of a run whose record has its data.
            overrides: As in `source_of`.

        Raises:
            UserError: The images cannot be listed.
        """
        record = run.record
        source, had = source_of(run, overrides), record["data"]
        divided = source["_target_"] == TABLE and any(source.get(key) for key in OF_CELLS)
        if divided:
            listed = Contents((*map(as_text, record["class_names"]),), read_entries(run.data_file))
            had = {"content": listed.fingerprint(divided)}
        with self._lock:  # several threads ask
            fingerprint, classes, number = self._look(source, divided)
        if "content" in had:
            return had["content"] == fingerprint
        same = (*record["class_names"],) == classes and sum(had["images"].values()) == number
        if same and not self._warned:
            self._warned = True
            print(f"tlab: {UNLISTED}", file=sys.stderr)
        return same

    def _unmeasured(self, job: Job) -> dict[str, str]:
        """Return the further tests of which a run has no result on the images that there are now.

        Raises:
            UserError: Those of one cannot be listed.
        """
        tests, gone = without_missing(tests_of(job.run, job.overrides), measured_tests(job.run))
        classes = job.run.record["class_names"]
        source = source_of(job.run, job.overrides) if tests else {}
        which = json.dumps([tests, classes, source if source.get("_target_") == TABLE else None])
        with self._lock:
            if new := {*gone} - self._gone:
                self._gone |= new
                print(f"tlab: {TESTS_GONE % few(sorted(new))}", file=sys.stderr)
            if which not in self._tests:  # one look for all seeds
                sources = sources_of_tests(instantiate(source, _convert_="all"), tests) if tests else {}
                self._tests[which] = fingerprints(sources, classes)
            return unmeasured(job.run, self._tests[which])

    def _look(self, source: dict[str, Any], divided: bool) -> tuple[str, tuple[str, ...], int]:
        """Return fingerprint (see `Contents`), classes and number of the present images."""
        splits = source["_target_"] in SPLITTING and source.get("limit") is None and not divided
        once = ONLY_SPLIT if splits else ()  # one look for all seeds
        which = json.dumps({key: value for key, value in source.items() if key not in once}, sort_keys=True)
        if which not in self._seen:
            images = read_contents(instantiate(source, _convert_="all"), decode=False)
            self._seen[which] = images.fingerprint(divided), images.classes, len(images.entries)
        return self._seen[which]


def source_of(run: RunDirectory, overrides: Iterable[str]) -> dict[str, Any]:
    """Return what finds the images of a run, if tlab lists it; a relative folder that was typed starts here.

    Args:
        run: Directory of a run that has begun.
        overrides: Those of the command, which may say where the images are now.
    """
    config = OmegaConf.create(inert(run.record["config"]))
    found = OmegaConf.to_container(config.data.module.source, resolve=True)
    source = read_node(found, "data.module.source", run.record_file)
    root = dict(map(key_and_value, overrides)).get("data.root", "null")
    return source if root == "null" else {**source, "root": str(Path(root).expanduser().absolute())}


def tests_of(run: RunDirectory, overrides: Iterable[str]) -> dict[str, str]:
    """Return name -> folder of the further tests of a run; a relative folder that was typed starts here.

    Args:
        run: Directory of a run that has begun, with the same overrides.
        overrides: Those of the command.
    """
    tests: dict[str, str] = dict(run.record["config"]["data"].get("tests") or {})
    given = [each for each in overrides if key_and_value(each)[0].startswith("data.tests")] if tests else []
    for override in OverridesParser.create().parse_overrides(given):
        value = override.value()
        typed = value if isinstance(value, dict) else {override.key_or_group.removeprefix("data.tests."): value}
        plain = {name: root for name, root in typed.items() if name in tests and "$" not in str(root)}
        tests |= {name: str(Path(str(root)).expanduser().absolute()) for name, root in plain.items()}
    return tests
