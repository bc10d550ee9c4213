"""The points of a study's figure, and their table."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from tlab.runs.directory import RunDirectory
from tlab.studies.points import read_figure, write_points
from tlab.studies.study_runs import StudyRun


@pytest.fixture
def results(tmp_path):
    """Return a function of rows, place, seed, images of train and accuracy: as many finished runs of one line."""

    def of(*rows):
        runs = {}
        for number, (x, seed, images, accuracy) in enumerate(rows):
            directory = RunDirectory(tmp_path / str(number))
            directory.update(status="finished", seed=seed, data={"images": {"train": images}})
            directory.metrics_file.write_text(json.dumps({"test/acc": accuracy}))
            runs[StudyRun("accuracy", x, (str(number),))] = directory
        return runs

    return of


def study(x):
    return OmegaConf.create({"name": "mine", "x": x, "y": None})


def points(figure):
    (line,) = figure.lines
    return [(point.x, point.values) for point in line.points]


def test_two_spellings_of_one_value_are_one_point_of_all_their_seeds(results):
    rows = (("1e-3", 0, 9, 0.5), ("0.001", 1, 9, 0.6), ("0.001", 2, 9, 0.7), ("0.1", 0, 9, 0.8))
    figure = read_figure(study("optimizer.lr"), results(*rows))
    assert points(figure) == [("1e-3", {0: 0.5, 1: 0.6, 2: 0.7}), ("0.1", {0: 0.8})]
    assert figure.remarks == ()


def test_a_seed_that_is_there_at_a_value_in_another_spelling_is_left_out_and_counted(results):
    figure = read_figure(study("optimizer.lr"), results(("1e-3", 0, 9, 0.5), ("0.001", 0, 9, 0.6)))
    assert points(figure) == [("1e-3", {0: 0.5})]
    assert figure.remarks == ("1 run left out, with the same seed and optimizer.lr as another.",)


def test_all_images_and_as_many_as_there_are_make_one_point(results, tmp_path):
    figure = read_figure(study("data.limit"), results(("null", 0, 1250, 0.5), ("625", 1, 1250, 0.6)))
    assert points(figure) == [("1,250", {0: 0.5, 1: 0.6})]
    write_points(figure, tmp_path / "study.csv")
    with (tmp_path / "study.csv").open(encoding="utf-8", newline="") as lines:
        assert [(row["x"], row["seed"]) for row in csv.DictReader(lines)] == [("1250", "0"), ("1250", "1")]
