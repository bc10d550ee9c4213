"""Pruning of a trial by one of Optuna's pruners, fed through the study's storage."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.pruners import BasePruner
    from optuna.trial import Trial


class StudyJudge:
    """Reports a trial's epochs to the study, each once, and asks the study's pruner.

    Epochs that a run reports again, resumed from an earlier checkpoint, change and prune nothing: the pruner
    decided when they were new.

    Args:
        storage: Address as `tlab.search.study.open_storage` takes it.
        study: Name of the study.
        trial_id: The trial's id in the storage.
        pruner: Optuna's pruner.
    """

    def __init__(self, storage: str, study: str, trial_id: int, pruner: "BasePruner") -> None:
        self.storage = storage
        self.study = study
        self.trial_id = trial_id
        self.pruner = pruner
        self._opened: Trial | None = None

    def should_prune(self, epoch: int, value: float) -> bool:
        """Report `value` of `epoch`, and tell whether the pruner would end the trial."""
        trial = self._trial()
        last = self._last_step()
        if last is not None and epoch < last:
            return False
        if epoch != last:
            trial.report(value, epoch)
        return trial.should_prune()

    def was_pruned(self) -> bool:
        """Tell whether the pruner would end the trial by what is reported already."""
        return self._last_step() is not None and self._trial().should_prune()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # a connection belongs to its process

    def _last_step(self) -> int | None:
        trial = self._trial()
        return trial.storage.get_trial(trial._trial_id).last_step

    def _trial(self) -> "Trial":
        if self._opened is None:
            import optuna

            from tlab.search.study import open_storage

            study = optuna.load_study(study_name=self.study, storage=open_storage(self.storage), pruner=self.pruner)
            self._opened = optuna.trial.Trial(study, self.trial_id)
        return self._opened
