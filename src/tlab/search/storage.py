"""Where Optuna keeps a study: SQLite, another database, or a journal file in a shared folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from tlab.errors import UserError

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.storages import BaseStorage

WAIT = 120  # seconds for another worker's write to SQLite
JOURNAL = "journal:"
HERE = ("hydra._internal.core_plugins.basic_launcher.", "hydra_plugins.hydra_joblib_launcher.")  # on this machine


def usual_storage(launcher: str) -> str | None:
    """Return the storage of a new study where none is named: SQLite, or a journal where machines share its folder.

    SQLite's locks do not hold on many network file systems.

    Args:
        launcher: `_target_` of Hydra's launcher, which starts the workers.
    """
    return None if launcher.startswith(HERE) else "journal"


def storage_address(storage: str | None, directory: Path) -> str:
    """Return what `open_storage` takes: `storage` itself, or the place of the file in the study's directory.

    Args:
        storage: None for SQLite, `journal`, or a URL of SQLAlchemy such as `postgresql://user@host/name`.
        directory: The study's.

    Raises:
        UserError: It is none of them.
    """
    if storage is None:
        return f"sqlite:///{directory / 'study.db'}"
    if storage == "journal":
        return f"{JOURNAL}{directory / 'journal.log'}"
    if "://" not in storage:
        raise UserError(
            f"storage={storage} is no storage; leave it out for a SQLite file in the study's directory, give "
            f"storage=journal for a folder that several machines share, or a URL such as postgresql://user@host/name"
        )
    return storage


def open_storage(address: str) -> "BaseStorage":
    """Return the storage at an address, which is made where it is not there.

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
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"storage={address} cannot be opened ({reason}); correct the URL, or leave it out"
        ) from error
