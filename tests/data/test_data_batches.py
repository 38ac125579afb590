"""The laws of the stream: it has no state, visits everything, shares fairly, and resumes from a number."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sfumato.core.errors import UsageError
from sfumato.data import Batches, Source, once, open_data


@pytest.fixture(scope="module")
def source() -> Source:
    return open_data("digits", side=8, channels=1).subset(range(50))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


@pytest.mark.parametrize("batch", [1, 7, 16, 50, 64, 130])
def test_every_epoch_visits_each_item_once(source, batch):
    """Whatever the batch: the first three epochs of the stream are three permutations."""
    batches = Batches(source, batch, seed=3)
    stream = [i for k in range(-(-150 // batch)) for i in batches.indices(k)][:150]
    for epoch in range(3):
        assert sorted(stream[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    assert stream[:50] != stream[50:100]


def test_a_batch_is_a_function_of_its_number(source):
    """Resume in the middle of an epoch, at its end − 1, 0, + 1: a new stream gives the same batches in any order."""
    straight = [Batches(source, 8, seed=1, flip=True).at(k) for k in range(15)]
    fresh = Batches(source, 8, seed=1, flip=True)
    for k in (14, 5, 6, 7, 0, 12, 13):
        assert same(fresh[k], straight[k])
    running = iter(fresh)
    assert all(same(next(running), straight[k]) for k in range(15))


def test_ranks_partition_the_batch(source):
    whole = Batches(source, 12, seed=2, flip=True)
    for world in (2, 3, 4):
        shares = [Batches(source, 12, seed=2, flip=True, rank=r, world=world) for r in range(world)]
        for k in (0, 4, 9):
            parts = [share.at(k) for share in shares]
            assert torch.equal(torch.cat([p["image"] for p in parts]), whole.at(k)["image"])
            assert torch.equal(torch.cat([p["index"] for p in parts]), whole.at(k)["index"])


def test_seeds_and_salts_are_other_orders(source):
    orders = {tuple(Batches(source, 50, seed, salt=salt).indices(0)) for seed in (0, 1) for salt in ("", "again")}
    assert len(orders) == 4


def test_flips_are_mirrors_of_half_the_stream(source):
    """Each row is the picture or its mirror; of 600 rows 300 ± 75 are flipped (six standard deviations of 12.2)."""
    plain, flipped = Batches(source, 60, seed=4), Batches(source, 60, seed=4, flip=True)
    turned = 0
    for k in range(10):
        a, b = plain.at(k)["image"], flipped.at(k)["image"]
        for x, y in zip(a, b, strict=True):
            mirrored = torch.equal(y, x.flip(-1)) and not torch.equal(x, y)
            assert mirrored or torch.equal(x, y)
            turned += mirrored
    assert 225 <= turned <= 375


def test_the_first_indices_are_pinned(source):
    """The order is part of resuming old runs: it must not change between versions."""
    assert Batches(source, 8, seed=0).indices(0) == PINNED


PINNED = [5, 20, 8, 18, 15, 31, 32, 21]


def test_a_set_smaller_than_a_batch():
    batches = Batches(open_data("digits").subset(range(3)), 16, seed=0)
    assert batches.at(7)["image"].shape == (16, 3, 8, 8)
    assert max(Counter(batches.indices(0)).values()) == 6  # ⌈16 / 3⌉


def test_captions_take_turns_by_epoch():
    source = open_data("emoji:food+en+de").subset(range(4))
    batches = Batches(source, 4, seed=0)
    for epoch in range(3):
        got = batches.at(epoch)
        assert got["text"] == [source.text(int(i), epoch) for i in got["index"]]
    assert batches.at(0)["text"] != batches.at(1)["text"]


def test_images_lie_in_minus_one_to_one(source):
    image = Batches(source, 50, seed=0).at(0)["image"]
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (-1, 1)
    index = Batches(source, 50, seed=0).at(0)["index"]
    back = ((image + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, torch.stack([source.image(int(i)) for i in index]))


def test_once_goes_through_everything_in_order(source):
    parts = list(once(source, 16))
    assert [len(p["index"]) for p in parts] == [16, 16, 16, 2]
    assert torch.cat([p["index"] for p in parts]).tolist() == list(range(50))
    assert torch.cat([p["label"] for p in parts]).tolist() == [source.label(i) for i in range(50)]


def test_an_item_is_a_row_of_a_batch(source):
    item = source.item(3)
    assert torch.equal(item["image"], source.batch([0, 3])["image"][1])
    assert int(item["label"]) == source.label(3)


@pytest.mark.parametrize(("batch", "rank", "world"), [(0, 0, 1), (8, 2, 2), (8, -1, 2), (7, 0, 2)])
def test_impossible_shares_are_refused(source, batch, rank, world):
    with pytest.raises(UsageError):
        Batches(source, batch, 0, rank=rank, world=world)


def test_there_is_no_batch_before_the_first(source):
    with pytest.raises(UsageError):
        Batches(source, 8, 0).at(-1)
    with pytest.raises(UsageError):
        list(once(source, 0))
