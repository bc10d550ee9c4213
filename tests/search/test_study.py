"""Who has which trial, and what an epoch that is told twice does."""

import multiprocessing
import pickle
import time
from pathlib import Path

import hydra
import optuna
import pytest
from optuna.distributions import FloatDistribution

from tlab.config.hydra import conf_dir, prepare_hydra
from tlab.core.errors import UserError
from tlab.search.pruner import StudyPruner
from tlab.search.space import Space
from tlab.search.study import Definition, Study, read_definition, usual_storage, write_definition

SPACE = Space(("data=demo",), {"optimizer.lr": "interval(0, 1)"}, {"optimizer.lr": FloatDistribution(0, 1)})
TPE = {"_target_": "optuna.samplers.TPESampler", "seed": 0}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1, "n_warmup_steps": 0}


def definition(**other) -> Definition:
    usual = {"fixed": ["data=demo"], "searched": dict(SPACE.searched), "seeds": [0], "monitor": "val/acc"}
    how = {"mode": "max", "storage": None, "trials": 6, "sampler": TPE, "pruner": MEDIAN}
    return Definition(**(usual | how | other))


def study(directory: Path, **other) -> Study:
    return Study("a", directory, definition(**other), SPACE)


def hold_a_trial(directory: Path, storage: str | None, claimed) -> None:
    with study(directory, storage=storage).lease() as lease:
        claimed.put(lease.trial.number)
        time.sleep(600)


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_trial_is_taken_by_one_worker_and_taken_over_when_that_is_gone(tmp_path, storage):
    """Three workers are killed in the middle of their trials."""
    context = multiprocessing.get_context("fork")  # which imports nothing anew
    claimed = context.Queue()
    workers = [context.Process(target=hold_a_trial, args=(tmp_path, storage, claimed)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert sorted(claimed.get(timeout=60) for _ in workers) == [0, 1, 2]
    mine = study(tmp_path, storage=storage)
    with mine.lease() as lease:
        assert (lease.trial.number, lease.continued) == (3, False)
        before = mine.trials()[0].params
        for worker in workers:
            worker.kill()
            worker.join()
    mine.optuna.tell(3, 0.5)
    taken = []
    for _ in range(5):
        with mine.lease() as lease:
            taken.append((lease.trial.number, lease.continued))
            if lease.trial.number == 0:
                assert lease.values == before
            mine.optuna.tell(lease.trial, 0.1)
    assert taken == [(0, True), (1, True), (2, True), (4, False), (5, False)]
    with mine.lease() as lease:
        assert lease is None
    assert [trial.state.name for trial in mine.trials()] == ["COMPLETE"] * 6
    assert mine.best().number == 3


def test_a_trial_whose_worker_was_gone_before_it_had_values_gets_them(tmp_path):
    first = study(tmp_path)
    first.optuna.ask()
    with first.lease() as lease:
        assert (lease.trial.number, lease.continued) == (0, True)
        assert 0 <= lease.values["optimizer.lr"] <= 1


def test_a_search_that_goes_on_chooses_as_it_would_have_done(tmp_path):
    def chosen(one: Study) -> float:
        with one.lease() as lease:
            one.optuna.tell(lease.trial, lease.values["optimizer.lr"])
            return lease.values["optimizer.lr"]

    whole = study(tmp_path / "whole", trials=15)
    expected = [chosen(whole) for _ in range(15)]
    assert [chosen(study(tmp_path / "again", trials=15)) for _ in range(15)] == expected
    assert len(set(expected)) == 15


def test_an_epoch_is_reported_once_and_judged_when_it_is_new(tmp_path):
    mine = study(tmp_path)
    for value in (0.5, 0.6):
        with mine.lease() as lease:
            for epoch in range(4):
                lease.trial.report(value, epoch)
            mine.optuna.tell(lease.trial, value)

    def pruner() -> StudyPruner:
        trial = optuna.trial.Trial(study(tmp_path).optuna, lease.trial._trial_id)
        return pickle.loads(pickle.dumps(StudyPruner(trial)))  # as in another process

    with mine.lease() as lease:
        running = pruner()
        assert not running.was_pruned()
        assert not running.should_prune(0, 0.9)
        assert not running.should_prune(1, 0.1)  # its best epoch counts
        again = pruner()  # of a run that goes on from before the first epoch
        assert not again.was_pruned()
        assert not again.should_prune(0, 0.9)
        assert not again.should_prune(1, 0.1)
        assert mine.trials()[2].intermediate_values == {0: 0.9, 1: 0.1}
        mine.optuna.tell(lease.trial, state=optuna.trial.TrialState.PRUNED)
    with mine.lease() as lease:
        assert pruner().should_prune(0, 0.1)
        assert pruner().was_pruned()
        assert pruner().should_prune(
            0, 0.1
        )  # killed before the answer was carried out: the last epoch is judged again
        assert mine.trials()[3].intermediate_values == {0: 0.1}


def test_two_folders_with_one_database_are_refused(tmp_path):
    """Each would take the other's trials, whose locks it does not see."""
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = (study(tmp_path / name, storage=storage) for name in ("first", "second"))
    with first.lease():
        taken = len(second.trials())
        second.trials = lambda *states: []  # what it saw before the other's trial was there
        with pytest.raises(UserError, match=r"study=a is searched from another folder .* dir=DIR"), second.lease():
            pass
    assert taken == 1


def test_a_pruner_opens_its_study_only_where_it_is_asked(tmp_path):
    mine = study(tmp_path)
    with mine.lease() as lease:
        pickled = pickle.dumps(StudyPruner(lease.trial))
    mine.optuna._storage.remove_session()
    for file in tmp_path.glob("*.db*"):
        file.unlink()
    assert pickle.dumps(pickle.loads(pickled)) == pickled


def test_trials_with_the_same_overrides_are_twins(tmp_path):
    mine = study(tmp_path)
    for value in (0.25, 0.25, 0.250001, 0.3):
        mine.optuna.enqueue_trial({"optimizer.lr": value})
    with mine.lease() as first:
        assert mine.duplicate(first) is None
        mine.optuna.tell(first.trial, 0.7)
    found = []
    for _ in range(3):
        with mine.lease() as lease:
            found.append(mine.duplicate(lease))
            mine.optuna.tell(lease.trial, state=optuna.trial.TrialState.FAIL)
    assert [twin and twin.number for twin in found] == [0, 0, None]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"searched": {"optimizer.lr": "interval( 0,1 )"}, "trials": 60}, None),
        ({"searched": {"optimizer.lr": "interval(0, 2)"}}, "optimizer.lr=interval(0,2)"),
        ({"fixed": ["data=demo", "aug=none"]}, "aug=none"),
        ({"seeds": [0, 1]}, "seeds=[0, 1]"),
    ],
)
def test_what_makes_another_study(tmp_path, other, difference):
    write_definition(tmp_path, definition())
    assert read_definition(tmp_path).differs(definition(**other)) == difference


def test_a_damaged_study_is_named(tmp_path):
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json is damaged .* give another study=NAME"):
        read_definition(tmp_path)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("file.db", "storage=file.db is no storage"),
        ("nosuch://host/db", "storage=nosuch://host/db cannot"),
    ],
)
def test_a_storage_that_is_none(tmp_path, storage, words):
    with pytest.raises(UserError, match=words):
        study(tmp_path, storage=storage)


@pytest.mark.parametrize(
    ("launcher", "storage"),
    [("basic", None), ("local", None), ("joblib", None), ("submitit_slurm", "journal"), ("ray", "journal")],
)
def test_workers_on_other_machines_get_a_journal(launcher, storage):
    given = [] if launcher == "basic" else [f"hydra/launcher={launcher}"]
    prepare_hydra([])
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("tune", ["study=a", *given], return_hydra_config=True)
    assert usual_storage(cfg.hydra.launcher._target_) == storage
