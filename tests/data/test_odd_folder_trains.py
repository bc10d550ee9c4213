"""A folder with every oddity that users' folders have, through a whole run."""

import csv
from pathlib import Path

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
