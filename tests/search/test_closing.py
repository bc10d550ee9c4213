"""What a search says at its end, and its commands."""

import shlex

from optuna.distributions import CategoricalDistribution

from tlab.search.closing import print_end
from tlab.search.space import Space
from tlab.search.study import Definition, Study

SPACE = Space(
    ("data.root=photos[thumbs]",), {"+note": "'[/x]',b"}, {"+note": CategoricalDistribution(["'[/x]'", "b"])}
)


def study(directory) -> Study:
    node = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    how = {"trials": 3, "sampler": node, "pruner": {"_target_": "optuna.pruners.NopPruner"}}
    fixed, searched = list(SPACE.fixed), dict(SPACE.searched)
    return Study("s", directory, Definition(fixed, searched, [0, 1], "val/acc", "max", None, **how), SPACE)


def test_brackets_are_printed_as_they_are(tmp_path, capsys):
    mine = study(tmp_path / "a[b]")
    mine.optuna.enqueue_trial({"+note": "'[/x]'"})
    with mine.claim() as claim:
        mine.optuna.tell(claim.trial, 0.5)
    print_end(mine)
    lines = capsys.readouterr().out.splitlines()
    assert "  +note='[/x]'" in lines
    assert lines[-1] == f"search:  {tmp_path}/a[b]/search.html"
    again = shlex.split(lines[-2].removeprefix("again: "))
    assert again == ["python", "-m", "tlab.train", "-m", "data.root=photos[thumbs]", "+note='[/x]'", "seed=0,1"]
