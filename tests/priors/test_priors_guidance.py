"""Guidance as a function over functions."""

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.errors import UsageError
from sfumato.priors.guidance import during, first_half, guide, linear, rescaled

CONDITION, NULL = Condition(3, vector=torch.randn(3, 2)), Condition(3, vector=torch.zeros(3, 2))


class Counted:
    def __init__(self):
        self.rows = []

    def __call__(self, z, t, condition):
        self.rows.append(len(z))
        return torch.sin(3 * z) + condition.vector.sum(1, keepdim=True) * t[:, None]


@pytest.mark.parametrize(("scale", "rows"), [(1, [3]), (0, [3]), (2.5, [6]), (-1, [6])])
def test_one_call_of_the_network(scale, rows):
    predict, z, t = Counted(), torch.randn(3, 4), torch.rand(3)
    out = guide(predict, CONDITION, NULL, scale)(z, t)
    assert predict.rows == rows
    c, u = predict(z, t, CONDITION), predict(z, t, NULL)
    if scale in (0, 1):
        assert torch.equal(out, (u, c)[scale])  # bit for bit
    else:
        torch.testing.assert_close(out, u + scale * (c - u))


def test_unguided_needs_no_null_and_guided_says_so():
    guide(Counted(), CONDITION, None, 1.0)(torch.randn(3, 4), torch.rand(3))
    with pytest.raises(UsageError, match="null"):
        guide(Counted(), CONDITION, None, 2.0)


def test_rescaled_brings_back_the_standard_deviation_of_each_image():
    c, u = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    whole, half, none = (rescaled(share)(c, u, 7.0) for share in (1.0, 0.5, 0.0))
    torch.testing.assert_close(whole.flatten(1).std(1), c.flatten(1).std(1))
    assert torch.equal(none, linear(c, u, 7.0))
    torch.testing.assert_close(half, (whole + none) / 2)


def test_a_learned_variance_stays_conditional():
    c, u = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    out = first_half(linear, 1)(c, u, 3.0)
    assert torch.equal(out[:, 3:], c[:, 3:])
    assert torch.equal(out[:, :3], linear(c[:, :3], u[:, :3], 3.0))


def test_guidance_within_an_interval():
    chosen = during(lambda z, t: z + 1, lambda z, t: z, (0.2, 0.7))
    z = torch.zeros(2)
    assert [float(chosen(z, torch.full((2,), t))[0]) for t in (0.1, 0.3, 0.69, 0.9)] == [0, 1, 1, 0]
