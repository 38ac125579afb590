"""Sequences of varying length: how they are carried, packed, unpacked, and what is no such sequence."""

import pytest
import torch

from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, carried, check, pack, presence, rows, size, unpack, varies

SPACE = Sequence(3, 2, varying=True)
ITEMS = [torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(0, 2), torch.arange(6.0).reshape(3, 2)]


def test_it_is_carried_with_an_entry_that_says_what_is_there():
    assert SPACE.shape == (3, 3)
    assert size(SPACE) == 9
    assert varies(SPACE)
    assert not varies(Sequence(3, 2))
    assert carried(SPACE) == Sequence(3, 3)
    assert carried(Sequence(3, 2)) == Sequence(3, 2)
    assert rows(SPACE) is SPACE
    z = check(SPACE, pack(SPACE, ITEMS))
    assert torch.equal(z[0], torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert presence(z).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_what_is_packed_is_unpacked():
    """A vector of zeros that is there is not one that is not."""
    found = unpack(pack(SPACE, ITEMS))
    assert all(torch.equal(a, b) for a, b in zip(found, ITEMS, strict=True))
    assert pack(SPACE, []).shape == (0, 3, 3)
    assert pack(SPACE, [item.double() for item in ITEMS]).dtype == torch.float64


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([[1, 1, 0], [1, 1, 1], [0, 0, 0]], "come first"),
        ([[1, 1, 0.5], [0, 0, 0], [0, 0, 0]], "nothing else"),
        ([[1, 1, float("nan")], [0, 0, 0], [0, 0, 0]], "nothing else"),
        ([[1, 1, 1], [0, 3, 0], [0, 0, 0]], "is zeros"),
        ([[1, 1, 1], [0, float("nan"), 0], [0, 0, 0]], "is zeros"),
    ],
    ids=["no prefix", "half there", "nan there", "absent and not zero", "absent and nan"],
)
def test_what_is_no_such_sequence_is_refused(row, said):
    whole = pack(SPACE, ITEMS)
    check(SPACE, whole)
    with pytest.raises(Misfit, match=said):
        check(SPACE, torch.cat([whole, torch.tensor([row], dtype=torch.float32)]))


def test_what_does_not_fit_is_refused():
    for item in (torch.zeros(4, 2), torch.zeros(1, 3), torch.zeros(2)):
        with pytest.raises(Misfit, match="An item of"):
            pack(SPACE, [item])
    with pytest.raises(Misfit, match=r"shape \(B, 3, 3\)"):
        check(SPACE, torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="fills no layout"):
        Sequence(4, 2, (2, 2), varying=True)
