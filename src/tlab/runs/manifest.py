"""`sweep.json`: what the command that began a sweep leaves for those that resume it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tlab.core.errors import UserError
from tlab.core.files import write_text
from tlab.runs.directory import now


@dataclass(frozen=True)
class SweepManifest:
    """What `sweep.json` holds."""

    constants: dict[str, str] = field(default_factory=dict)  # overrides that all runs share, and no name has
    command: str = ""  # arguments of that command, as they could be typed again
    started: str = field(default_factory=now)  # when that command started

    def write(self, directory: Path) -> None:
        """Write it into the sweep's directory."""
        write_text(directory / "sweep.json", json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def read_manifest(directory: Path) -> SweepManifest | None:
    """Return what the sweep's directory holds; None where no sweep has begun.

    Raises:
        UserError: The file is damaged.
    """
    file = directory / "sweep.json"
    try:
        return SweepManifest(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); move the sweep away, or give another sweep=NAME") from error
