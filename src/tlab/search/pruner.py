"""Pruning of a trial by one of Optuna's pruners, fed through the study's storage."""

import pickle

from optuna.trial import FrozenTrial, Trial


class StudyPruner:
    """Reports a trial's epochs to the study, each once, and asks the study's pruner.

    Epochs that a run reports again, resumed from an earlier checkpoint, change and prune nothing: the pruner
    decided when they were new.

    Args:
        trial: Optuna's trial. Another process opens its storage when it first asks; of a run's only one does.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial: Trial | bytes = trial

    @property
    def trial(self) -> Trial:
        """Optuna's trial."""
        if isinstance(self._trial, bytes):
            self._trial = pickle.loads(self._trial)
        assert isinstance(self._trial, Trial)
        return self._trial

    def __getstate__(self) -> dict[str, bytes]:
        return {"_trial": self._trial if isinstance(self._trial, bytes) else pickle.dumps(self._trial)}

    def should_prune(self, epoch: int, value: float) -> bool:
        """Report `value` of `epoch`, and tell whether the pruner would end the trial."""
        last = self._stored().last_step
        if last is not None and epoch < last:
            return False
        if epoch != last:
            self.trial.report(value, epoch)
        return self.was_pruned()

    def was_pruned(self) -> bool:
        """Tell whether the pruner would end the trial by what is reported already."""
        stored, study = self._stored(), self.trial.study
        return stored.last_step is not None and study.pruner.prune(study, stored)

    def _stored(self) -> FrozenTrial:
        """Return the trial as it is stored; `self.trial` does not know what other processes have reported."""
        return self.trial.storage.get_trial(self.trial._trial_id)
