"""Embeddings, norms, pyramids, the critic, the masked and the reading nets."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.nn import Critic, Decoder, Encoder, MaskedNet, PatchNet, TokenNet, UNet, VectorNet
from sfumato.nn.parts.attention import Attention
from sfumato.nn.parts.embed import Positions, patchify, rotate, sinusoid, unpatchify
from sfumato.nn.parts.layers import group_norm
from sfumato.nn.rows.transformer import Mlp

# --- embeddings


@pytest.mark.parametrize("cosine_first", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("width", [16, 33])
def test_sinusoid_is_diffusers(cosine_first, shift, width):
    """1e-4: sin of up to 1000, whose float32 argument is known to 6e-5."""
    t = torch.tensor([0.0, 1.0, 37.5, 999.0])
    wanted = get_timestep_embedding(t, width, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift)
    torch.testing.assert_close(sinusoid(t, width, cosine_first=cosine_first, shift=shift), wanted, atol=1e-4, rtol=0)


def turned(kind, x, layout=None, length=64):
    positions = Positions(kind, length, 8, 8, layout)
    return rotate(x.expand(length, 8)[None, None], positions.rotation(0, length))[0, 0]


def test_rotary_depends_on_the_difference_alone():
    """q at i times k at j is one number for each i − j. 1e-4: angles of up to 64 in float32."""
    q, k = turned("rotary", torch.randn(8)), turned("rotary", torch.randn(8))
    scores = q @ k.T
    for shift in (1, 5, 30):
        torch.testing.assert_close(scores[shift:, shift:], scores[:-shift, :-shift], atol=1e-4, rtol=0)
    assert scores[0].std() > 0.1


def test_rotary_in_the_plane_depends_on_both_differences_alone():
    layout = (8, 8)
    q, k = (turned("rotary2", torch.randn(8), layout) for _ in "qk")
    scores = (q @ k.T).reshape(8, 8, 8, 8)  # row, column of q; row, column of k
    torch.testing.assert_close(scores[1:, :, 1:, :], scores[:-1, :, :-1, :], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[:, 3:, :, 3:], scores[:, :-3, :, :-3], atol=1e-4, rtol=0)
    assert scores[0, 0].std(dim=0).min() > 0.01
    assert scores[0, 0].std(dim=1).min() > 0.01


def test_rotation_keeps_lengths():
    x = torch.randn(8)
    torch.testing.assert_close(turned("rotary", x).norm(dim=-1), x.norm().expand(64))


@pytest.mark.parametrize("kind", ["learned", "axial", "sincos"])
def test_places_differ(kind):
    table = Positions(kind, 12, 16, 4, (3, 4)).added(0, 12)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 1e-3


def test_a_prefix_is_counted_backwards():
    positions = Positions("rotary", 12, 8, 8)
    cos, _ = positions.rotation(-3, 12)
    assert cos.shape == (15, 4)
    torch.testing.assert_close(cos[3:], positions.rotation(0, 12)[0])
    cos, sin = Positions("rotary2", 12, 8, 8, (3, 4)).rotation(-3, 12)
    assert (cos[:3] == 1).all()
    assert (sin[:3] == 0).all()


def test_patches_are_put_back():
    x = torch.randn(2, 3, 4, 6)
    patches = patchify(x, 2)
    assert torch.equal(patches[1, 4].reshape(3, 2, 2), x[1, :, 2:4, 2:4])
    assert torch.equal(unpatchify(patches, 2, (2, 3)), x)
    with pytest.raises(Misfit, match="split"):
        patchify(x, 4)


# --- attention


def test_attention_is_its_formula():
    attention = Attention(8, 2)
    x = torch.randn(2, 5, 8)
    q, k, v = (part.reshape(2, 5, 2, 4).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(4)).softmax(-1)
    wanted = attention.out((weights @ v).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(attention(x), wanted, atol=1e-6, rtol=1e-5)


def test_nothing_to_look_at_gives_nothing():
    attention = Attention(8, 2, context=6)
    y = attention(torch.randn(2, 5, 8), torch.randn(2, 3, 6), mask=torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(y, attention.out.bias.expand(2, 5, 8))


def test_units_are_their_formulas():
    x = torch.randn(4, 8)
    for kind, phi in {
        "gelu": lambda h: h * 0.5 * (1 + torch.erf(h / math.sqrt(2))),
        "gelu_new": lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
        "quick": lambda h: h * torch.sigmoid(1.702 * h),
    }.items():
        mlp = Mlp(8, kind)
        torch.testing.assert_close(mlp(x), mlp.out(phi(mlp.inner(x))), atol=1e-6, rtol=1e-5)
    for kind, phi in {"swiglu": F.silu, "geglu": F.gelu}.items():
        mlp = Mlp(8, kind)
        value, gate = mlp.inner(x).chunk(2, -1)
        torch.testing.assert_close(mlp(x), mlp.out(value * phi(gate)))
    with pytest.raises(Misfit, match="swiglu"):
        Mlp(8, "relu")


# --- norms, pyramids, critic


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (192, 32), (320, 32), (64, 16), (32, 8), (30, 6), (7, 1), (3, 1)]
)
def test_groups_divide_any_width(channels, groups):
    assert group_norm(channels).num_groups == groups


SHAPES = {
    "tiny": {"width": 8, "mults": (1,), "blocks": 1, "middle_attention": False},
    "f4": {"width": 12, "mults": (1, 2, 3), "blocks": 1},
    "f8": {"width": 8, "mults": (1, 1, 2, 2), "blocks": 2, "attention": (False, False, True, True)},
    "patch": {"width": 8, "mults": (1, 2), "blocks": 1, "patch": 2},
}


@pytest.mark.parametrize("name", SHAPES)
def test_pyramids_shrink_and_grow_by_their_factor(name):
    encoder, decoder = Encoder(3, 5, **SHAPES[name]), Decoder(5, 7, **SHAPES[name])
    f = SHAPES[name].get("patch", 1) * 2 ** (len(SHAPES[name]["mults"]) - 1)
    assert encoder.factor == decoder.factor == f
    x = torch.randn(2, 3, 2 * f, 3 * f)
    h = encoder(x)
    assert h.shape == (2, 5, 2, 3)
    out = decoder(h)
    assert out.shape == (2, 7, 2 * f, 3 * f)
    for net in (encoder, decoder):
        for p in net.parameters():
            p.data = p.data + 0.1 * torch.randn_like(p)
    decoder(encoder(x)).square().sum().backward()
    dead = [
        name for net in (encoder, decoder) for name, p in net.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert dead == []
    assert decoder.last.grad is not None
    if f > 1:
        with pytest.raises(Misfit, match="divide"):
            encoder(torch.randn(2, 3, 2 * f + 1, 2 * f))


@pytest.mark.parametrize("norm", ["group", "instance", "spectral", "none"])
def test_a_critic_judges_each_picture_alone(norm):
    critic = Critic(3, width=8, layers=2, norm=norm).eval()
    x = torch.randn(3, 3, 24, 32)
    logits = critic(x)
    assert logits.shape == (3, 1, 4, 6)
    other = critic(torch.cat([x[:1], -x[1:]]))
    assert torch.equal(logits[0], other[0])


def test_a_critic_sees_seventy_pixels():
    """The receptive field of a logit, read from a gradient."""
    x = torch.randn(1, 3, 128, 128, requires_grad=True)
    critic = Critic(3, width=4, norm="none")
    logits = critic(x)
    logits[0, 0, 7, 7].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_a_critic_learns_and_refuses_pictures_that_are_too_small():
    critic = Critic(3, width=8)
    side = critic.smallest
    critic(torch.randn(2, 3, side, side)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in critic.parameters())
    with pytest.raises(Misfit, match="fewer layers"):
        critic(torch.randn(2, 3, side - 1, side))
    with pytest.raises(Misfit, match="batch"):
        Critic(3, norm="batch")


# --- nets that read


@pytest.mark.parametrize("positions", ["learned", "rotary", "sincos"])
@pytest.mark.parametrize("causal", [True, False])
def test_masked_words_reach_no_other_word(positions, causal):
    net = TokenNet(Tokens(6, 11), 5, width=16, depth=2, heads=2, causal=causal, positions=positions).eval()
    tokens = torch.randint(0, 11, (2, 6))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1]]).bool()
    other = torch.where(mask, tokens, (tokens + 1) % 11)
    with torch.no_grad():
        assert torch.equal(net(tokens, mask)[mask], net(other, mask)[mask])
        assert net(tokens, torch.zeros_like(mask)).isfinite().all()
        later = tokens.clone()
        later[:, 3] = (tokens[:, 3] + 1) % 11
        same = (net(tokens) == net(later)).all(-1)
        assert same[:, :3].all() == causal
        assert not same[:, 3:].any()


def test_reading_nets_learn():
    words = TokenNet(Tokens(6, 11), 5, width=16, depth=2, heads=2)
    words(torch.arange(11)[None, :6].repeat(2, 1)).square().sum().backward()
    picture = PatchNet(Grid(3, 8, 8), patch=4, width=16, depth=2, heads=2)
    h = picture(torch.randn(2, 3, 8, 8))
    assert h.shape == (2, 5, 16)
    h.pow(4).sum().backward()
    dead = [n for net in (words, picture) for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    with pytest.raises(Misfit, match="pictures of shape"):
        picture(torch.randn(2, 3, 8, 12))


MASKED = {"tokens": Tokens(12, 7, (3, 4)), "vectors": Sequence(12, 4, (3, 4))}


@pytest.mark.parametrize("positions", ["learned", "axial", "rotary", "rotary2"])
@pytest.mark.parametrize("kind", MASKED)
def test_hidden_entries_cannot_matter(kind, positions):
    space = MASKED[kind]
    net = MaskedNet(space, 5, width=16, depth=2, heads=2, vector=6, context=8, positions=positions).eval()
    z = torch.randint(0, 7, (2, 12)) if kind == "tokens" else torch.randn(2, 12, 4)
    hidden = torch.rand(2, 12) < 0.5
    c = Condition(2, torch.randn(2, 6), torch.randn(2, 3, 8), torch.tensor([[1, 1, 0], [0, 0, 0]]).bool())
    other = z.clone()
    other[hidden] = 7 if kind == "tokens" else torch.nan  # beyond the alphabet; not a number
    shown = z.clone()
    shown[~hidden] = (z[~hidden] + 1) % 7
    with torch.no_grad():
        h = net(z, hidden, c)
        assert h.shape == (2, 12, 5)
        assert torch.equal(h, net(other, hidden, c))
        assert (h != net(shown, hidden, c)).any(-1).all()
        assert (h != net(z, hidden, Condition(2, c.vector + 1, c.sequence, c.mask))).any(-1).all()
        sequence = torch.where(c.mask[..., None], c.sequence, c.sequence + 9)
        assert torch.equal(h, net(z, hidden, Condition(2, c.vector, sequence, c.mask)))
    net(z, hidden, c).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_vector_net_starts_at_zero_and_learns_everywhere():
    """A new net answers zero; once its exits are open, every parameter has a gradient and the vector is heard."""
    net = VectorNet(Sequence(1, 3), 3, width=16, depth=2, vector=5)
    z, t, c = torch.randn(4, 1, 3), torch.rand(4), Condition(4, vector=torch.randn(4, 5))
    assert torch.equal(net(z, t, c), torch.zeros(4, 1, 3))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net(z, t, c).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    other = Condition(4, vector=c.vector + 1)
    with torch.no_grad():
        assert bool((net(z, t, c) != net(z, t, other)).all())
        assert bool((net(z, t, c) != net(z, t + 0.1, c)).all())


def test_a_unet_of_patches_is_one_of_their_pixels_as_channels():
    """The same weights, on pixels laid side by side; and a side that its patches do not divide comes back whole."""
    shape = {"width": 8, "mults": (1, 2), "blocks": 1, "attention": (False, True)}
    fine, coarse = UNet(2, 3, patch=2, **shape), UNet(8, 12, **shape)
    with torch.no_grad():
        for parameter in fine.parameters():
            parameter.normal_(std=0.1)
    coarse.load_state_dict(fine.state_dict())
    x, t, none = torch.randn(2, 2, 8, 12), torch.rand(2), Condition.none(2)
    with torch.no_grad():
        inside = F.pixel_shuffle(coarse(F.pixel_unshuffle(x, 2), t, none), 2)
        assert torch.equal(fine(x, t, none), inside)
        assert fine(x[..., :7, :9], t, none).shape == (2, 3, 7, 9)
