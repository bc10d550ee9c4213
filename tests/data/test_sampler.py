import tracemalloc
from collections import Counter

import pytest
import torch

from tlab.data.sampler import (
    EpochSampler,
    OrderedKeys,
    SampleKey,
    SequentialSampler,
    addressed_generator,
    addressed_seed,
)


def indices(sampler):
    return [key.index for key in sampler]


def test_addressed_seed_is_fixed_and_tells_its_parts_apart():
    assert addressed_seed(0, "order", 0) == SEED
    parts = [(1, 2), (12,), (2, 1), ("1", 2), (1, 2, 0), (1, "2")]
    assert len({addressed_seed(*part) for part in parts}) == len(parts)
    assert 0 <= addressed_seed("x") < 2**64
    assert addressed_generator(1).initial_seed() == addressed_seed(1)


def test_every_epoch_has_its_own_permutation_by_seed_alone():
    sampler = EpochSampler([0] * 50, seed=1)
    first = indices(sampler)
    assert sorted(first) == list(range(50))
    assert indices(sampler) == first
    sampler.set_epoch(1)
    second = indices(sampler)
    assert sorted(second) == list(range(50))
    assert second != first
    assert {key.epoch for key in sampler} == {1}
    sampler.set_epoch(0)
    assert indices(sampler) == first == indices(EpochSampler([0] * 50, seed=1, batch_size=8))
    assert indices(EpochSampler([0] * 50, seed=2)) != first


def test_partner_is_the_next_one_in_a_ring():
    keys = EpochSampler([0] * 9, seed=3).keys(2)
    assert [key.partner for key in keys] == [keys[(i + 1) % 9].index for i in range(9)]


@pytest.mark.parametrize("labels", [[0] * 90 + [1] * 9 + [2], [0] * 7 + [1] * 3])
def test_balanced_draws_every_class_equally_often(labels):
    sampler = EpochSampler(labels, seed=0, balanced=True)
    totals: Counter[int] = Counter()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        counts = Counter(labels[key.index] for key in drawn)
        assert len(drawn) == len(labels)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({(key.index, key.repeat) for key in drawn}) == len(
            drawn
        )  # each repeat is an augmentation of its own
        times = Counter(key.index for key in drawn)
        for label in set(labels):
            of_class = [times[i] for i, other in enumerate(labels) if other == label]
            assert max(of_class) - min(of_class) <= 1
        totals.update(times)
    assert set(totals) == set(range(len(labels)))  # nobody is left out for ever
    assert list(EpochSampler(labels, seed=0, balanced=True)) == list(EpochSampler(labels, seed=0, balanced=True))


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("total", [1, 2, 5, 8, 12, 13, 24, 25, 31, 100])
@pytest.mark.parametrize("size", [1, 4])
def test_ranks_cut_the_global_batches(replicas, total, size):
    single = indices(EpochSampler([0] * total, seed=5, batch_size=size * replicas))
    ranks = [
        EpochSampler([0] * total, seed=5, batch_size=size, num_replicas=replicas, rank=rank)
        for rank in range(replicas)
    ]
    shares = [indices(sampler) for sampler in ranks]
    assert len({len(share) for share in shares}) == 1  # else a process would wait for ever
    assert [len(sampler) for sampler in ranks] == [len(share) for share in shares]
    flat = [index for share in shares for index in share]
    assert len(flat) == len(set(flat)) >= total - max(replicas - 1, 0) - replicas
    for start in range(0, total // (size * replicas) * size, size):
        union = [index for share in shares for index in share[start : start + size]]
        assert union == single[start * replicas : (start + size) * replicas]
    if size > 1 and len(shares[0]) > size:
        assert len(shares[0]) % size != 1


def test_last_batch_of_one_is_left_out_unless_it_is_all():
    assert len(EpochSampler([0] * 9, batch_size=4)) == 8
    assert len(EpochSampler([0] * 10, batch_size=4)) == 10
    assert len(EpochSampler([0], batch_size=4)) == 1
    assert len(EpochSampler([0] * 3, batch_size=1)) == 3


def test_evaluation_sees_every_sample_once_over_all_ranks():
    assert list(SequentialSampler(3)) == [SampleKey(0, 0), SampleKey(0, 1), SampleKey(0, 2)]
    shares = [[key.index for key in SequentialSampler(7, num_replicas=3, rank=rank)] for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(SequentialSampler(7, num_replicas=3, rank=rank)) for rank in range(3)] == [3, 2, 2]


def test_rank_out_of_range():
    with pytest.raises(ValueError, match="rank 2"):
        EpochSampler([0], num_replicas=2, rank=2)


SEED = 3148214947260623304


def test_an_epoch_takes_no_object_for_each_sample():
    for balanced in (False, True):
        sampler = EpochSampler(torch.arange(200_000) % 7, balanced=balanced, batch_size=8)
        tracemalloc.start()
        count = sum(1 for _ in sampler)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 200_000
        assert peak < 1e6  # a list of so many keys would take 30


@pytest.mark.parametrize("balanced", [False, True])
def test_keys_can_be_asked_for_one_by_one(balanced):
    sampler = EpochSampler([0] * 5 + [1] * 2, balanced=balanced)
    keys = sampler.keys(1)
    assert [keys[place] for place in range(7)] == list(keys) == keys[:]
    assert keys[2:4] == [keys[-5], keys[3]]
    assert OrderedKeys(range(2, 9), epoch=3)[1:3][1] == SampleKey(3, 4)
