"""A folder with every oddity that users' folders have, through a whole run."""

import csv
import math
import shlex
import shutil
from pathlib import Path

import pytest

from tlab.core.errors import RunDirectoryConflict, UserError
from tlab.core.files import cache_dir
from tlab.data.sources.folder import folder_index
from tlab.data.sources.scan import check_apart
from tlab.runs.directory import RunDirectory
from tlab.train import train


def test_a_folder_with_every_oddity_trains(odd_folder, compose_run, tmp_path):
    root, unreadable = odd_folder
    run_dir = tmp_path / "odd_run"
    metrics = train(compose_run(f"data.root={root}", "data.batch_size=4", run_dir=run_dir))
    assert metrics["epochs"] == 2
    with (run_dir / "unreadable.csv").open(encoding="utf-8") as file:
        rows = {Path(row["path"]).relative_to(root).as_posix(): row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == unreadable.keys()
    assert all(word in rows[path] for path, word in unreadable.items())


def test_no_run_is_written_among_the_images(odd_folder, compose_run):
    root, _ = odd_folder
    with pytest.raises(UserError, match=r"holds images of data\.root") as caught:
        train(compose_run(f"data.root={root}", run_dir=root / "cats"))
    assert not (root / "cats/run.json").exists()
    key, _, place = shlex.split(str(caught.value))[-1].partition("=")
    for apart in (place, root, root.parent, root / "run"):
        check_apart(Path(apart), str(root), key)
    (root / "cats/run.json").touch()  # as earlier versions did
    with pytest.raises(UserError, match=r"output of tlab.*: cats/;"):
        folder_index(root)


@pytest.mark.parametrize(
    "how", [("finetune=head",), ("finetune=lp_ft", "features.cache=off"), ("aug=light", "data.num_workers=1")]
)
def test_what_the_check_has_passed_over_is_skipped_as_it_comes(odd_folder, compose_run, tmp_path, how):
    root, unreadable = odd_folder
    run_dir = tmp_path / "run"
    cfg = compose_run(f"data.root={root}", "data.batch_size=4", "data.check_seconds=1e-9", *how, run_dir=run_dir)
    metrics = train(cfg)
    assert math.isfinite(metrics["val/loss"])
    with (run_dir / "unreadable.csv").open(encoding="utf-8") as file:
        rows = {Path(row["path"]).relative_to(root).as_posix(): row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == unreadable.keys()
    assert all(word in rows[path] for path, word in unreadable.items())
    index = folder_index(root)
    readable = [s for s in index.splits["val"] if index.relative(s.path) not in unreadable]
    counts = sum(
        int(row["count"]) for row in csv.DictReader((run_dir / "confusion_val.csv").open(encoding="utf-8"))
    )
    assert counts == len(readable)
    assert train(cfg) == metrics


def test_another_check_of_the_same_images_changes_no_run(odd_folder, compose_run, tmp_path):
    """One that decodes all images, or, with an empty cache, others."""
    root, unreadable = odd_folder
    options = (f"data.root={root}", "data.batch_size=4", "finetune=head")
    sampled, whole = (tmp_path / name for name in ("sampled", "whole"))
    first = train(compose_run(*options, "data.check_seconds=1e-9", run_dir=sampled))
    train(compose_run(*options, "data.check_seconds=null", run_dir=whole))
    assert train(compose_run(*options, "data.check_seconds=1e-9", run_dir=sampled)) == first
    files = [root / name for name in unreadable]
    assert {Path(path) for path in RunDirectory(sampled).unreadable()} == set(files)
    shutil.rmtree(cache_dir() / "check")
    for seconds in ("1e-9", "null"):  # with the first nothing is known of what has been left out
        assert train(compose_run(*options, f"data.check_seconds={seconds}", run_dir=whole))
        assert train(compose_run(*options, f"data.check_seconds={seconds}", run_dir=sampled)) == first
    files[0].write_bytes((root / "cats" / "0.jpg").read_bytes())  # mended: another image
    with pytest.raises(RunDirectoryConflict):
        train(compose_run(*options, "data.check_seconds=1e-9", run_dir=sampled))
