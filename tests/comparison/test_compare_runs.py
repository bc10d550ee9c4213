"""Which setting is the best, and what is said about it."""

import json
from dataclasses import replace
from itertools import permutations

import pytest
from rich.console import Console
from scipy import stats

from tlab.comparison import compare_runs
from tlab.comparison.images import sets_of_images
from tlab.comparison.load import read_runs
from tlab.comparison.phrases import detail, effects_sentence, headline
from tlab.comparison.report.report import write_report
from tlab.comparison.tables import write_tables
from tlab.comparison.terminal import print_comparison
from tlab.core.errors import UserError
from tlab.runs.directory import RunDirectory

STRONG = {0: 0.90, 1: 0.92, 2: 0.94, 3: 0.91}
LIGHT = {0: 0.80, 1: 0.81, 2: 0.86, 3: 0.80}
DIM = "\x1b[2m"
NONE = {0: 0.89, 1: 0.93, 2: 0.92, 3: 0.898}


@pytest.fixture
def three(make_run, sweep):
    for aug, values in {"strong": STRONG, "light": LIGHT, "none": NONE}.items():
        for seed, value in values.items():
            make_run(f"aug={aug}", value, seed, [f"aug={aug}"], test_acc=value - 0.02)
    return sweep


def printed(comparison, width=80, styles=False):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_comparison(console, comparison)
    return console.export_text(styles=styles)


def test_ranking_intervals_tests_and_correction(three):
    comparison = compare_runs(three)
    assert [setting.levels for setting in comparison.settings] == [("strong",), ("none",), ("light",)]
    best, near, far = comparison.settings
    assert best.difference is None
    assert best.summary.mean == pytest.approx(0.9175)
    assert best.test.mean == pytest.approx(0.8975)
    p_near, p_far = (stats.ttest_rel(list(STRONG.values()), list(other.values())).pvalue for other in (NONE, LIGHT))
    assert near.difference.p == pytest.approx(p_near)
    assert far.difference.p == pytest.approx(p_far)
    assert far.difference.p_corrected == pytest.approx(2 * p_far)
    assert near.difference.p_corrected == pytest.approx(p_near)
    assert far.difference.summary.mean == pytest.approx(0.1)


def test_in_python_it_shows_in_a_line_what_is_best(three):
    assert repr(compare_runs(three)).endswith("12 runs, 3 settings, best: aug=strong)")


def test_a_narrow_terminal_breaks_no_name_of_a_level(make_run, sweep):
    for aug, finetune in (("none", "gradual"), ("strong", "lp_ft")):
        for seed in (0, 1, 2):
            overrides = [f"finetune={finetune}", f"aug={aug}"]
            metrics = {"test_acc": 0.5, "val_ece": 0.05}
            make_run(f"{finetune}_{aug}", 0.5 + 0.01 * seed, seed, overrides, **metrics)
    comparison = compare_runs(sweep)
    narrow = printed(comparison, 80)
    assert "gradual" in narrow.split("Holm")[1]
    assert "without" in narrow
    assert "without" not in printed(comparison, 140)
    costs = printed(comparison, 50).split("epochs to")[1]
    assert "of parameters" in costs.split("without")[1]
    assert "gradual" in costs
    assert "…" not in costs


@pytest.mark.parametrize(
    ("data", "cautioned"),
    [
        ([("a", "x", 9), ("a", "y", 9)], False),  # the same files elsewhere
        ([("a", "x", 9), ("b", "y", 9)], True),
        ([("a", "x", 9), ("a", "x", 8)], True),  # split otherwise
        ([(None, "x", 9), ("a", "x", 9)], False),  # one of a version that knew times and places only
        ([(None, "x", 9), ("a", "y", 9)], True),
    ],
)
def test_runs_with_other_images_are_a_caution(make_run, sweep, data, cautioned):
    for number, (content, fingerprint, images) in enumerate(data):
        run = RunDirectory(make_run(f"optimizer.lr={number}", overrides=[f"optimizer.lr={number}"]))
        known = {"content": content} if content else {}
        run.update(data={"fingerprint": fingerprint, "images": {"train": images, "val": 3}, **known})
    assert ("same images" in " ".join(compare_runs(sweep).notes)) == cautioned
    run.update(data_changes=["2 gone (train/a.jpg, train/b.jpg)"])
    assert "1 went on over other images" in " ".join(compare_runs(sweep).notes)


@pytest.mark.parametrize(
    ("classes", "roots", "data_sets"),
    [
        (("ab", "ab", "cdef"), ("x", "x", "x"), {"a | b": 2, "c | d | e": 1}),
        (("ab", "ab", "ab"), ("/data/x", "/data/x", "/data/y"), {"x": 2, "y": 1}),
        (("ab", "ab", "ab"), ("/1/x", "/2/x", "/2/x"), {"/2/x": 2, "/1/x": 1}),
        (("ab", "ab", "ab"), ("x", "x", "x"), {}),  # one folder, whose images have changed
    ],
)
def test_over_several_sets_of_images_nothing_is_ahead(make_run, sweep, tmp_path, classes, roots, data_sets):
    for number, (names, root) in enumerate(zip(classes, roots, strict=True)):
        given = [f"optimizer.lr={number}", f"aug={number % 2}"]
        for seed in (0, 1):
            run = RunDirectory(make_run(str(number), 0.5 + number / 10 + seed / 100, seed, given))
            data = {"root": root, "content": f"{root}{number}", "fingerprint": "", "images": {"train": 9, "val": 3}}
            run.update(class_names=[*names], data=data)
    comparison = compare_runs(sweep)
    assert {name: number // 2 for name, number in comparison.data_sets.items()} == data_sets
    said, page = printed(comparison), write_report(comparison, tmp_path).read_text(encoding="utf-8")
    first = said.strip().splitlines()[0]
    if data_sets:
        assert f"{len(data_sets)} sets of images" in first
        assert all(name in said for name in data_sets)
        assert "sets of images" in repr(comparison)
        assert "sets of images" in page.partition("<body")[2][:5000]
        assert not any(
            word in said for word in ("ahead", "behind", "wins", "best", "Of the differences", "same images")
        )
        assert all(setting.difference is None for setting in comparison.settings)
    else:
        assert "wins" in first or "ahead" in first
        assert "same images" in said


@pytest.mark.parametrize(
    ("data", "data_sets"),
    [
        ([("x", "all", None), ("y", "all", None), ("y", "one less", None)], {}),
        ([("x", "all", None), ("y", "one less", None), ("y", "all", None), ("z", "other", None)], {"x": 3, "z": 1}),
        ([("1/x", "few", 50), ("2/x", "many", 100), ("3/x", "all", None)], {}),  # a learning curve of copies
        ([("x", "few", 50), ("x", "many", 100), ("y", "others", 50), ("y", "more", 100)], {"x": 2, "y": 2}),
    ],
)
def test_folders_with_images_in_common_are_one_set_in_any_order_of_the_runs(make_run, sweep, data, data_sets):
    for number, (root, content, limit) in enumerate(data):
        run = RunDirectory(
            make_run(str(number), overrides=[f"optimizer.lr={number}"], config={"data.limit": limit})
        )
        run.update(data={"root": root, "content": content, "fingerprint": "", "images": {"train": 9, "val": 3}})
    for runs in permutations(read_runs(sweep)[0]):
        assert sets_of_images(runs) == data_sets


def test_a_run_that_went_on_over_other_images_makes_no_set(make_run, sweep):
    for number, (root, changed) in enumerate((("x", []), ("y", ["2 gone"]))):
        run = RunDirectory(make_run(str(number), overrides=[f"optimizer.lr={number}"]))
        data = {"root": root, "content": root, "fingerprint": "", "images": {"train": 9, "val": 3}}
        run.update(data=data, data_changes=changed)
    assert compare_runs(sweep).data_sets == {}


def test_on_a_further_test_of_the_same_images_runs_of_several_sets_are_ranked(make_run, sweep):
    for number, lr in enumerate((1, 2)):
        for seed in (0, 1):
            accuracy = {"test_far/acc": 0.5 + number / 10, "test_own/acc": 0.5}
            run = RunDirectory(make_run(f"lr={lr}", 0.9, seed, [f"optimizer.lr={lr}"], **accuracy))
            data = {"root": str(lr), "content": str(lr), "fingerprint": "", "images": {"train": 9, "val": 3}}
            tests = {"far": {"images": 9, "fingerprint": "one"}, "own": {"images": 9, "fingerprint": str(lr)}}
            run.update(data=data, tests=tests)
    comparison = compare_runs(sweep)
    assert comparison.data_sets == {"1": 2, "2": 2}
    assert "monitor=test/far/acc" in detail(comparison)
    assert "own/acc" not in detail(comparison)
    assert compare_runs(sweep, "test/own/acc").data_sets
    ranked = compare_runs(sweep, "test/far/acc")
    assert not ranked.data_sets
    assert ranked.ranked[0].result.mean == pytest.approx(0.6)


def test_sets_of_many_classes_are_told_apart(make_run, sweep):
    for number, names in enumerate(("abc", "abcd", "abcd", "cba")):
        run = make_run(str(number), overrides=[f"optimizer.lr={number}"])
        RunDirectory(run).update(class_names=[*names])
    assert compare_runs(sweep).data_sets == {"a | b | c": 2, "d | a | b": 2}


@pytest.mark.parametrize(
    ("images", "splits", "p"),
    [
        (14, ("one", "other"), 0.5),  # an image in each
        (14, ("same", "same"), 1.0),
        (1400, ("one", "other"), 0.01),
        (None, ("one", "other"), 0.01),  # of an earlier version
    ],
)
def test_so_few_images_prove_nothing(make_run, sweep, images, splits, p):
    for lr, ahead in ((1, (0.0714, 0.0715)), (2, (0.0, 0.0))):
        for seed in (0, 1):
            run = make_run(f"lr={lr}", 0.8 + ahead[seed], seed, [f"optimizer.lr={lr}"], val_loss=0.5)
            if images:
                RunDirectory(run).update(data={"fingerprint": splits[seed], "images": {"train": 9, "val": images}})
    other = compare_runs(sweep).settings[1]
    assert other.p == p if p > 0.1 else other.p < p
    assert compare_runs(sweep, monitor="val/loss").settings[1].p == 1.0


def twenty(seed: int, others: int = 0) -> list[tuple[str, str]]:
    """Path and digest of 20 validation images, of which so many are this seed's alone."""
    return [(f"{n}.png", f"{n}" if n >= others else f"{n} of {seed}") for n in range(20)]


@pytest.mark.parametrize(
    ("images", "p"),
    [
        (lambda seed: twenty(seed), 2**-3),  # four images of twenty, which five seeds have measured
        (lambda seed: [(f"{seed}/{path}", digest) for path, digest in twenty(seed)], 2**-3),
        (lambda seed: twenty(seed, others=10), 2**-11),  # of 10 + 5 * 10
        (lambda seed: twenty(seed, others=20), 2**-19),
        (lambda seed: [(path, "") for path, _ in twenty(seed)], 2**-3),  # which were passed over
        (lambda seed: [(path, "") if seed else (path, digest) for path, digest in twenty(seed)], 2**-3),
    ],
)
def test_images_that_several_seeds_measure_count_once_whatever_their_times(make_run, sweep, images, p):
    """Jobs that each copy the folder, or draw other training images."""
    for lr, accuracies in ((1, (0.95,) * 5), (2, (0.74, 0.76, 0.75, 0.75, 0.75))):
        for seed, accuracy in enumerate(accuracies):
            run = RunDirectory(make_run(f"lr={lr}", accuracy, seed, [f"optimizer.lr={lr}"]))
            rows = [f"val,{path},cat,7,{digest}" for path, digest in images(seed)]
            rows += [f"train,drawn/{seed}.png,cat,7,{seed}"]
            run.data_file.write_text("\n".join(["split,path,label,size,digest", *rows]))
            about = {"content": f"{seed}", "fingerprint": f"{lr} {seed}", "images": {"train": 1, "val": 20}}
            run.update(data=about)
    assert compare_runs(sweep).settings[1].difference.p == pytest.approx(p, rel=1e-6)


def test_a_further_test_is_of_the_same_images_for_all_seeds(make_run, sweep):
    for lr, accuracies in ((1, (0.95,) * 5), (2, (0.74, 0.76, 0.75, 0.75, 0.75))):
        for seed, accuracy in enumerate(accuracies):
            run = RunDirectory(make_run(f"lr={lr}", 0.5, seed, [f"optimizer.lr={lr}"]))
            run.metrics_file.write_text(json.dumps({**run.metrics(), "test/fog/acc": accuracy}))
            run.update(tests={"fog": {"images": 20, "fingerprint": f"{seed}"}})
    assert compare_runs(sweep, monitor="test/fog/acc").settings[1].difference.p == 2**-3


def test_seeds_may_split_the_same_images_in_other_ways(make_run, sweep):
    for seed in (0, 1):
        run = RunDirectory(make_run("a", seed=seed))
        run.update(data={"content": "a", "fingerprint": str(seed), "images": {"train": 9 - seed, "val": 3 + seed}})
    assert "same images" not in " ".join(compare_runs(sweep).notes)


def test_folds_of_a_limit_have_images_of_their_own(make_run, sweep):
    for number in range(2):
        for fold in range(2):
            config = {"data.folds": 2, "data.fold": fold, "data.limit": 0.5, "data.source.fold": fold}
            run = RunDirectory(
                make_run(f"lr={number},fold={fold}", overrides=[f"optimizer.lr={number}"], config=config)
            )
            run.update(data={"content": str(fold), "fingerprint": "x", "images": {"train": 9, "val": 3}})
    assert "same images" not in " ".join(compare_runs(sweep).notes)
    run.update(data={"content": "others", "fingerprint": "x", "images": {"train": 9, "val": 3}})
    assert "same images" in " ".join(compare_runs(sweep).notes)


def test_the_answer_says_who_is_ahead_and_whom_the_seeds_cannot_tell_from_it(three):
    comparison = compare_runs(three)
    assert headline(comparison) == "aug=strong is ahead, but not significantly"
    text = detail(comparison)
    assert "val/acc 91.8 % (95 % interval 89.0 to 94.5 %, t, 4 seeds)" in text
    assert "0.8 points above the next, aug=none" in text
    assert "cannot tell it from 1 of the other 2" in text
    assert "test/acc 89.8 %" in text


@pytest.mark.parametrize(("p", "dim"), [(0.0, True), (0.04, True), (0.06, False), (None, False)])
def test_a_setting_that_is_surely_worse_is_dim(three, p, dim):
    comparison = compare_runs(three)
    best, *others = comparison.settings
    others = [replace(other, difference=replace(other.difference, p_corrected=p)) for other in others]
    text = printed(replace(comparison, settings=(best, *others)), styles=True)
    assert [DIM in line for line in text.splitlines() if "light" in line] == [dim, dim]  # statistics and costs


def test_a_clear_lead_is_said_to_be_one(make_run, sweep):
    for aug, values in {"strong": STRONG, "light": LIGHT}.items():
        for seed, value in values.items():
            make_run(f"aug={aug}", value, seed, [f"aug={aug}"])
    comparison = compare_runs(sweep)
    assert headline(comparison) == "aug=strong wins"
    assert "the difference to it is significant (corrected p < 0.001)" in detail(comparison)


def test_two_that_cannot_be_told_apart_and_an_interval_that_would_leave_the_scale(make_run, sweep):
    for aug, values in {"strong": (0.9, 0.5), "light": (0.6, 0.55)}.items():
        for seed, value in enumerate(values):
            make_run(f"aug={aug}", value, seed, [f"aug={aug}"])
    text = detail(compare_runs(sweep))
    assert "(95 % interval 0.0 to 100.0 %, t, 2 seeds)" in text
    assert "these seeds cannot tell the two apart (p = 0.6" in text


def test_equal_results_are_called_equal(make_run, sweep):
    for aug in ("strong", "light"):
        make_run(f"aug={aug}", 0.8, 0, [f"aug={aug}"])
    comparison = compare_runs(sweep)
    first, second = map(comparison.label, comparison.ranked)
    assert f"The next, {second}, has the same" in detail(comparison)
    assert headline(comparison) == f"{first} is as good as {second}"


def test_equal_seeds_give_no_interval(make_run, sweep):
    for seed in range(3):
        make_run("aug=strong", 0.8, seed, ["aug=strong"])
        make_run("aug=light", 0.6 + seed / 50, seed, ["aug=light"])
    comparison = compare_runs(sweep)
    assert "val/acc 80.0 % (3 equal seeds, which give no interval" in detail(comparison)
    text = printed(comparison)
    assert "all equal" in text
    assert "80.0 to 80.0" not in text


def test_a_higher_mean_of_too_few_seeds_is_said_to_be_that(make_run, sweep):
    for seed, value in enumerate((0.7, 0.72, 0.71)):
        make_run("aug=strong", value, seed, ["aug=strong"])
    make_run("aug=light", 0.8, 0, ["aug=light"])
    comparison = compare_runs(sweep)
    assert comparison.ranked[0].levels == ("strong",)
    assert "aug=light is 9.0 points better, but of 1 finished seed only" in detail(comparison)


def test_of_a_loss_the_lowest_wins_and_the_others_lie_behind_by_a_positive_amount(three):
    comparison = compare_runs(three, "val/loss")
    assert comparison.mode == "min"
    assert comparison.settings[0].levels == ("strong",)
    assert comparison.settings[2].difference.summary.mean == pytest.approx(0.1)
    assert comparison.target == pytest.approx(0.0825 / 0.95)
    assert "0.008 below the next" in detail(comparison)


def test_seeds_missing_in_some_settings(make_run, sweep):
    for seed in (0, 1, 2):
        make_run("aug=strong", STRONG[seed], seed, ["aug=strong"])
    make_run("aug=light", 0.99, 0, ["aug=light"])
    make_run("aug=none", 0.5, 7, ["aug=none"])
    make_run("aug=mix", 0.5, 0, ["aug=mix"], status="failed", error="UserError: optimizer.lr")
    comparison = compare_runs(sweep)
    best, light, none, mix = comparison.settings
    assert best.levels == ("strong",)  # one seed of light is not enough to be called the best
    assert any("too few finished seeds" in note for note in comparison.notes)
    assert (light.difference.summary.n, light.difference.p) == (1, None)
    assert (none.difference.summary, none.difference.p) == (None, None)
    assert (mix.summary, mix.difference, mix.count("failed")) == (None, None, 1)
    text = printed(comparison)
    assert "failed  aug=mix/seed=0: UserError: optimizer.lr" in text
    assert "1 failed" in text


def test_one_run(make_run, sweep):
    make_run("only", [0.3, 0.6])
    comparison = compare_runs(sweep / "only")
    assert headline(comparison) == "only: 60.0 %"
    assert "nothing can be said about its spread" in detail(comparison)
    assert effects_sentence(comparison) is None
    assert "60.0 %" in printed(comparison)


def test_one_seed_each_is_no_proof(make_run, sweep):
    for aug, value in {"strong": 0.9, "light": 0.8}.items():
        make_run(f"aug={aug}", value, 0, [f"aug={aug}"])
    comparison = compare_runs(sweep)
    assert headline(comparison) == "aug=strong is highest, with one seed"
    assert "with one seed nothing can be said" in detail(comparison)


def test_no_run_has_finished(make_run, sweep):
    make_run("a", status="failed", error="ValueError: x")
    make_run("b", status="running")
    comparison = compare_runs(sweep)
    assert headline(comparison) == "No run has finished"
    assert "failed  a/seed=0: ValueError: x" in printed(comparison)
    assert "unfinished  b/seed=0: 1 epoch done" in printed(comparison)


def test_pruned_runs_are_counted_but_not_compared(make_run, sweep):
    make_run("a", 0.5, 0, ["optimizer.lr=1"], config={"optimizer.lr": 1.0})
    make_run("b", 0.9, 0, ["optimizer.lr=2"], config={"optimizer.lr": 2.0}, status="pruned")
    comparison = compare_runs(sweep)
    assert [s.levels for s in comparison.ranked] == [("1",)]
    assert "1 pruned, left out" in comparison.notes


def test_the_same_run_twice_counts_once(make_run, sweep):
    make_run("a", 0.5)
    make_run("b", 0.7)
    comparison = compare_runs(sweep)
    (setting,) = comparison.settings
    assert setting.summary.n == 1
    assert any("is the same again" in note for note in comparison.notes)


def test_epochs_to_a_target(make_run, sweep):
    make_run("aug=a", [0.2, 0.5, 0.8], 0, ["aug=a"])
    make_run("aug=a", [0.2, 0.3, 0.8], 1, ["aug=a"])
    make_run("aug=b", [0.5, 0.6, 0.7], 0, ["aug=b"])
    default = compare_runs(sweep)
    assert default.target == pytest.approx(0.76)  # 95 % of the best mean
    assert [(s.epochs_to_target, s.reached) for s in default.settings] == [(3, 2), (None, 0)]
    given = compare_runs(sweep, target=0.5)
    assert [(s.epochs_to_target, s.reached) for s in given.settings] == [(2.5, 2), (1, 1)]
    assert "epochs to 50.0 %" in printed(given)


def test_many_settings_fit_the_terminal(make_run, sweep):
    for i in range(30):
        make_run(f"lr={i}", 0.5 + i / 100, 0, [f"optimizer.lr={i}"], config={"optimizer.lr": float(i)})
    text = printed(compare_runs(sweep))
    assert "and 10 more settings" in text
    assert max(map(len, text.splitlines())) <= 80


def test_which_factor_matters_is_told(make_run, sweep):
    for aug, shift in {"none": 0.0, "strong": 0.2}.items():
        for lr, more in {0.1: 0.0, 0.2: 0.05}.items():
            for seed in (0, 1):
                overrides = [f"aug={aug}", f"optimizer.lr={lr}"]
                make_run(f"{aug}{lr}", 0.5 + shift + more + seed / 100, seed, overrides, {"optimizer.lr": lr})
    sentence = effects_sentence(compare_runs(sweep))
    assert sentence == (
        "Of the differences between settings: aug 94 %, optimizer.lr 6 %. "
        "Levels of aug differ by 20.0 points, seeds of one setting by 0.7 points (sd)."
    )


@pytest.mark.parametrize(
    ("monitor", "words"), [("val/accuracy", "val/accuracy is not a metric of these runs; there are val/acc")]
)
def test_mistakes(three, tmp_path, monitor, words):
    with pytest.raises(UserError, match=words):
        compare_runs(three, monitor)
    with pytest.raises(UserError, match="is no directory"):
        compare_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        compare_runs(tmp_path / "empty")
    for file in three.rglob("metrics.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"metrics\.json is gone"):
        compare_runs(three)


@pytest.mark.parametrize(
    ("second", "notes"),
    [
        ({"loss.label_smoothing": 0.1}, []),
        (
            {"loss._target_": "tlab.models.losses.Focal", "loss.gamma": 2.0, "loss.label_smoothing": 0.0},
            ["val/loss and test/loss are those of different losses (CrossEntropy, Focal gamma=2.0)"],
        ),
    ],
)
def test_losses_of_different_kinds_are_not_mixed_in_silence(make_run, sweep, second, notes):
    """The first run is from before there was a choice."""
    make_run("a", config={"loss.label_smoothing": 0.0})
    make_run("b", overrides=["x=1"], config=second)
    assert [note for note in compare_runs(sweep).notes if "loss" in note] == notes


def test_further_tests_have_a_column_each_and_may_decide(make_run, sweep):
    for name, fog in (("a", 0.3), ("b", 0.6)):
        for seed in (0, 1):
            metrics = {"test_acc": 0.5, "test_fog/acc": fog + seed / 10, "test_fog/acc_class/acc": 0.1}
            make_run(name, 0.7, seed, [f"optimizer.lr={name}", f"data.tests.fog=/{seed}"], **metrics)
    make_run("c", 0.6, 0, ["optimizer.lr=c"], **{"test_sketch/acc": 0.2})
    comparison = compare_runs(sweep)
    assert comparison.further_tests == ("test/fog/acc", "test/sketch/acc")
    assert [factor.name for factor in comparison.factors] == ["optimizer.lr"]
    a, b, c = sorted(comparison.settings, key=lambda setting: setting.levels)
    assert (a.further_tests["test/fog/acc"].mean, a.further_tests["test/fog/acc"].n) == (pytest.approx(0.35), 2)
    assert b.further_tests["test/fog/acc"].low < 0.65 < b.further_tests["test/fog/acc"].high
    assert [*c.further_tests] == ["test/sketch/acc"]
    assert "65.0 % (1.5 to 100.0 %)" in (shown := printed(comparison, width=200))
    assert "20.0 %" in shown
    by_fog = compare_runs(sweep, monitor="test/fog/acc")
    assert by_fog.ranked[0].levels == ("b",)
    assert (by_fog.test_metric, by_fog.further_tests) == ("test/acc", ("test/sketch/acc",))
    write_tables(by_fog, sweep)
    header = (sweep / "comparison.csv").read_text().partition("\n")[0].split(",")
    assert {"test_mean", "test/sketch/acc_mean", "test/sketch/acc_ci_low"} <= {*header}
    assert "test/sketch/acc" in (sweep / "comparison_runs.csv").read_text().partition("\n")[0].split(",")
