"""What a run says about itself."""

import json

import pytest

from tlab.description import swept_keys

OVERRIDES = ["data.root=photos", "aug=none", "+optimizer.foo=1", "seed=0", "sweep=s"]


@pytest.mark.parametrize(
    ("note", "content", "swept"),
    [
        (None, {}, {"data.root", "aug", "optimizer.foo", "seed", "sweep"}),
        ("sweep.json", {"constants": {"data.root": "photos", "aug": "strong"}}, {"aug", "optimizer.foo", "seed"}),
        (
            "study.json",
            {"searched": {"aug": "none,light", "+optimizer.foo": "1,2"}},
            {"aug", "optimizer.foo", "seed"},
        ),
    ],
)
def test_what_sets_a_run_apart(tmp_path, note, content, swept):
    if note:
        (tmp_path / note).write_text(json.dumps(content))
    assert swept_keys(tmp_path / "aug=none" / "seed=0", OVERRIDES) == swept
