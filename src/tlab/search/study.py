"""A study: its definition, the storage of its trials, and which worker holds which trial."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlab.config.overrides import key_and_value
from tlab.config.schema import REMOVED_KEYS
from tlab.core.errors import UserError
from tlab.core.files import write_text
from tlab.core.locks import FileLock
from tlab.search.space import Space, Value

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

WAIT = 120  # seconds for another worker's write to SQLite
JOURNAL = "journal:"
STUDY_FILE = "study.json"


@dataclass(frozen=True)
class Definition:
    """What a study searches, and how; kept, so that the study's name is enough to resume it.

    The first six attributes are the same whenever the study is resumed.

    Attributes:
        fixed: Overrides that all trials share.
        searched: Key -> values in Hydra's sweep syntax.
        seeds: Seeds of each trial, whose value is the mean over them.
        monitor: Metric that is the value, at the best epoch.
        mode: `max` or `min`.
        storage: Storage as the command names it; None: a file in the study's directory, which may be moved.
        trials: Number of trials in all.
        sampler: Configuration of Optuna's sampler, see conf/sampler.
        pruner: Configuration of Optuna's pruner, see conf/pruner.
        config_dirs: Arguments that name more folders of YAML files, such as `--config-dir mine`.
    """

    fixed: list[str]
    searched: dict[str, str]
    seeds: list[int]
    monitor: str
    mode: str
    storage: str | None
    trials: int
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    config_dirs: list[str] = field(default_factory=list)

    def differs(self, other: "Definition") -> str | None:
        """Return an override in which another study differs, preferably one of its own; None if there is none."""
        mine, others = (
            {*one.fixed, *(f"{key}={text.replace(' ', '')}" for key, text in one.searched.items())}
            for one in (self, other)
        )
        if differing := [*sorted(others - mine), *sorted(mine - others)]:
            return differing[0]
        for key in ("seeds", "monitor", "mode", "storage"):
            if getattr(self, key) != getattr(other, key):
                return f"{key}={getattr(other, key)}"
        return None


def read_definition(directory: Path) -> Definition | None:
    """Return the definition of the study in `directory`; None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    file = directory / STUDY_FILE
    if not file.exists():
        return None
    try:
        told = OmegaConf.merge(OmegaConf.structured(Definition), json.loads(file.read_text(encoding="utf-8")))
        plain: Any = OmegaConf.to_container(told, resolve=False, throw_on_missing=True)
        plain["fixed"] = [each for each in plain["fixed"] if key_and_value(each)[0] not in REMOVED_KEYS]
        return Definition(**plain)
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file} is damaged ({reason}); move the folder away, or give another study=NAME"
        ) from error


def write_definition(directory: Path, definition: Definition) -> None:
    """Write `study.json`."""
    write_text(directory / STUDY_FILE, json.dumps(asdict(definition), indent=2, ensure_ascii=False) + "\n")


@dataclass
class TrialLease:
    """A trial that this process works on, and no other process.

    Attributes:
        trial: Optuna's trial.
        values: Values of the searched keys.
        directory: The trial's directory, below which its runs lie.
        continued: Whether another process had begun it.
        lock: Lock of the trial's directory.
    """

    trial: "Trial"
    values: dict[str, Value]
    directory: Path
    continued: bool
    lock: FileLock = field(repr=False)


@dataclass(eq=False)
class Study:
    """Optuna's study together with the folder of its trials.

    A trial belongs to the process that holds the lock in its folder. One that is under way while nobody holds its
    lock is abandoned; whoever takes it resumes it from its last checkpoint.

    Attributes:
        name: The study's name.
        directory: The study's directory.
        definition: What it searches, and how.
        space: Search space of the definition.
        targets: `_target_`s that its runs may build; None: any that the typed command names.
        optuna: The study itself, which is created if missing.
    """

    name: str
    directory: Path
    definition: Definition
    space: Space
    targets: frozenset[str] | None = None

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._lock = _lock(self.directory)
        with self._lock.held():
            self.optuna = optuna.create_study(
                study_name=self.name,
                storage=open_storage(storage_address(self.definition.storage, self.directory)),
                pruner=instantiate(self.definition.pruner),
                direction="maximize" if self.definition.mode == "max" else "minimize",
                load_if_exists=True,
            )

    def trials(self, *states: str) -> "list[FrozenTrial]":
        """Return the trials in these states (`COMPLETE`, `PRUNED`, `FAIL`, `RUNNING`), or all, by number."""
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in trials if not states or trial.state.name in states]

    def trial_directory(self, number: int) -> Path:
        """Return the folder of a trial's runs, `seed=<n>/`."""
        return self.directory / f"trial={number:04d}"

    @contextmanager
    def lease(self) -> Iterator[TrialLease | None]:
        """Hold a trial inside the block: an abandoned one, else a new one; None where all are taken."""
        with self._lock.held():
            lease = self._abandoned() or self._new()
        try:
            yield lease
        finally:
            if lease is not None:
                lease.lock.release()

    def is_worked_on(self) -> bool:
        """Tell whether another process holds a trial."""
        for trial in self.trials("RUNNING"):
            lock = _lock(self.trial_directory(trial.number))
            if not lock.acquire(wait=False):
                return True
            lock.release()
        return False

    def duplicate(self, lease: TrialLease) -> "FrozenTrial | None":
        """Return an ended trial with the same overrides, of which this one is a duplicate; None without one."""
        mine = self.space.overrides(lease.values)
        ended = self.trials("COMPLETE", "PRUNED")
        return next((trial for trial in ended if self.space.overrides(trial.params) == mine), None)

    def best(self) -> "FrozenTrial | None":
        """Return the trial with the best value, the first of equals; None where none has one."""
        complete = self.trials("COMPLETE")
        choose = max if self.definition.mode == "max" else min
        return choose(complete, key=lambda trial: trial.value or 0.0) if complete else None

    def _abandoned(self) -> TrialLease | None:
        import optuna

        for frozen in self.trials("RUNNING"):
            lock = _lock(self.trial_directory(frozen.number))
            if not lock.acquire(wait=False):
                continue
            if self.trials()[frozen.number].state.is_finished():  # ended in between
                lock.release()
                continue
            self.optuna.sampler = self._sampler(frozen.number)
            # Optuna has no other way to resume a trial that is under way
            trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
            return self._leased(trial, lock, continued=True)
        return None

    def _new(self) -> TrialLease | None:
        number = len(self.trials())
        if number >= self.definition.trials:
            return None
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask()
        if trial.number > number:  # a process without this folder's locks has begun one meanwhile
            raise UserError(
                f"study={self.name} is searched from another folder than {self.directory} too; give all that use "
                f"its storage the same folder, with dir=DIR"
            )
        lock = _lock(self.trial_directory(trial.number))
        lock.acquire(wait=False)
        return self._leased(trial, lock, continued=False)

    def _sampler(self, number: int) -> "BaseSampler":
        """Return the sampler for the trial of this number: a resumed search samples what an unbroken one would."""
        import numpy as np

        node = self.definition.sampler
        if node.get("seed") is None:
            return instantiate(node)
        return instantiate(node, seed=int(np.random.SeedSequence((node["seed"], number)).generate_state(1)[0]))

    def _leased(self, trial: "Trial", lock: FileLock, continued: bool) -> TrialLease:
        """Sample the values; of a trial that was abandoned amid this, the missing ones."""
        values = {key: trial._suggest(key, spread) for key, spread in self.space.distributions.items()}
        return TrialLease(trial, values, self.trial_directory(trial.number), continued, lock)


def _lock(folder: Path) -> FileLock:
    way_out = "give the study another place with dir=DIR, on a file system with locks"
    return FileLock(folder / ".lock", way_out)


def usual_storage(launcher: str) -> str | None:
    """Return the default storage of a new study: None (SQLite), or `journal` where machines share its folder.

    SQLite's locks do not hold on many network file systems.

    Args:
        launcher: `_target_` of Hydra's launcher, which starts the workers.
    """
    from tlab.sweeps.launched import IN_PROCESS, LOCAL

    return None if launcher.startswith((*IN_PROCESS, LOCAL)) else "journal"


def storage_address(storage: str | None, directory: Path) -> str:
    """Return the address for `open_storage`: `storage` itself, or that of a file in the study's directory.

    Args:
        storage: None for SQLite, `journal`, or a database URL such as `postgresql://user@host/name`.
        directory: The study's directory.

    Raises:
        UserError: `storage` is none of these.
    """
    if storage is None:
        return f"sqlite:///{directory / 'study.db'}"
    if storage == "journal":
        return f"{JOURNAL}{directory / 'journal.log'}"
    if "://" not in storage or storage.startswith(JOURNAL):
        raise UserError(
            f"storage={storage} is no storage; leave it out for a SQLite file in the study's directory, give "
            f"storage=journal for a folder that several machines share, or a URL such as postgresql://user@host/name"
        )
    return storage


def open_storage(address: str) -> "BaseStorage":
    """Return the storage at an address, which is created if missing.

    Raises:
        UserError: It cannot be reached.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    if address.startswith(JOURNAL):
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        return JournalStorage(JournalFileBackend(address.removeprefix(JOURNAL)))
    options = {"connect_args": {"timeout": WAIT}} if address.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(address, engine_kwargs=options)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"storage={address} cannot be opened ({reason}); correct the URL, or leave it out"
        ) from error
