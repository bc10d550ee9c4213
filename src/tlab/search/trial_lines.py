"""What the terminal shows during a search: a line for each trial that has ended."""

import logging
import time

from optuna.trial import FrozenTrial

from tlab.core.text import duration
from tlab.search.study import Study

log = logging.getLogger(__name__)


class Progress:
    """Prints every trial that has ended since this object was made, whichever process ran it.

    Args:
        study: The study to read; nothing else is known of the workers.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._start = time.monotonic()
        self._known = {trial.number for trial in study.trials() if trial.state.is_finished()}
        self._before = len(self._known)

    def report(self) -> None:
        """Print a line for each trial that has ended since the last call."""
        for trial in self.study.trials():
            if trial.state.is_finished() and trial.number not in self._known:
                self._known.add(trial.number)
                log.info("%s", self._line(trial))

    def _line(self, trial: FrozenTrial) -> str:
        of, ended, best = self.study.definition.trials, len(self._known), self.study.best()
        chosen = " ".join(self.study.space.chosen(trial.params))
        shown = f"best {best.value:.4f}, trial {best.number}; " if best and best.number != trial.number else ""
        each = (time.monotonic() - self._start) / (ended - self._before)
        left = f"; about {duration(each * (of - ended))} left" if ended < of else ""
        return f"trial {trial.number}  {outcome(self.study, trial)}  {chosen}  ({shown}{ended} of {of}{left})"


def outcome(study: Study, trial: FrozenTrial) -> str:
    """Return an ended trial's result in a few words."""
    attributes = trial.user_attrs
    if trial.state.name == "FAIL":
        return f"failed: {attributes.get('error', 'unknown')}"
    again = f" (as trial {attributes['twin']})" if "twin" in attributes else ""
    if trial.state.name == "PRUNED":
        return f"pruned after epoch {(trial.last_step or 0) + 1}{again}"
    return f"{study.definition.monitor} {trial.value:.4f}{again}"
