"""The codebook: lookup, gradients, moving averages, restarts, and steps that leave no trace."""

import math
import os
import subprocess
import sys

import pytest
import torch

from sfumato.codecs import codebook
from sfumato.codecs.codebook import Codebook, k_means, nearest, tally
from sfumato.core.noise import Noise


def cloud(rows: int, d: int = 4, seed: int = 0) -> torch.Tensor:
    """h whose positions are `rows` draws: (rows / 4, d, 2, 2)."""
    return torch.randn(rows // 4, d, 2, 2, generator=torch.Generator().manual_seed(seed))


def step(part: Codebook, h: torch.Tensor, seed: int = 0) -> None:
    part(h, Noise.shared(seed, len(h)), 1.0, 48)
    part.settle(Noise.shared(seed, 1))


def started(**options) -> Codebook:
    """A codebook that has been through k-means on one cloud."""
    part = Codebook(**{"vocab": 16, "width": 4, "restart": 0.0, **options})
    part.fit(lambda: [cloud(400)])
    return part


# ── lookup ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nearest_equals_an_oracle(monkeypatch):
    """Against vector-quantize-pytorch and against torch.cdist; in chunks, far from the origin, and in bf16 rows."""
    from vector_quantize_pytorch import VectorQuantize

    with torch.random.fork_rng():  # its own numbers: far out a near tie falls either way
        torch.manual_seed(0)
        oracle, rows = VectorQuantize(dim=4, codebook_size=50).eval(), torch.randn(300, 4)
    codes = oracle.codebook.detach()
    monkeypatch.setattr(codebook, "CHUNK", 50 * 7)
    assert torch.equal(nearest(rows, codes), oracle(rows[None])[1][0])
    assert torch.equal(nearest(rows + 1000, codes + 1000), torch.cdist(rows.double(), codes.double()).argmin(1))
    assert nearest(rows.bfloat16(), codes).shape == (300,)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_code_is_its_own_nearest_and_quantising_twice_is_once(cosine):
    part = started(vocab=64, cosine=cosine)
    every = torch.arange(64).view(64, 1, 1)
    assert torch.equal(part.encode(part.embed(every)), every)
    z = part.encode(cloud(100, seed=1))
    assert torch.equal(part.encode(part.embed(z)), z)


def test_positions_keep_their_place():
    """A picture made by hand: h at (row, column) is code number 3 · row + column."""
    part = started(vocab=6)
    h = part.codes.T.reshape(1, 4, 2, 3)
    assert part.encode(h).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    torch.testing.assert_close(part.embed(part.encode(h)), h)


def test_cosine_ignores_length():
    part = started(cosine=True)
    h = cloud(40, seed=1)
    assert torch.equal(part.encode(h), part.encode(7 * h))
    torch.testing.assert_close(part.embed(part.encode(h)).norm(dim=1), torch.ones(10, 2, 2))


def test_features_are_quantised_by_the_decoder():
    part = started(features=True)
    h = cloud(40, seed=1).requires_grad_()
    z = part.encode(h)
    assert torch.equal(z, h)
    torch.testing.assert_close(part.embed(z), torch.nn.functional.embedding(part.nearest(h), part.codes).movedim(-1, 1))
    (slope,) = torch.autograd.grad(part.embed(z).sum(), h)
    assert torch.equal(slope, torch.ones_like(h))


# ── gradients: vqvae.md, direction test 1 ────────────────────────────────────────────────────────────────────────────


def test_straight_through_is_the_identity():
    """∂ loss / ∂h from the decoder's path is ∂ loss / ∂code, exactly, and the value is the code, exactly."""
    part = started(mode="loss", commitment=0.0)
    h, weight = cloud(40, seed=1).requires_grad_(), torch.randn(10, 4, 2, 2)
    code, _ = part(h, Noise.shared(0, 10), 1.0, 48)
    assert torch.equal(code, part.embed(part.encode(h)))
    of_h, of_codes = torch.autograd.grad((code * weight).sum(), [h, part.codes], allow_unused=True)
    assert torch.equal(of_h, weight)
    assert of_codes is None


def test_each_term_moves_its_own_side():
    """Commitment: b · mean (h − e)² with gradient in h alone. Codes: mean (h − e)² with gradient in e alone."""
    part = started(mode="loss")
    h = cloud(40, seed=1).requires_grad_()
    _, terms = part(h, Noise.shared(0, 10), 1.0, 48)
    gap = h - part.embed(part.encode(h)).detach()
    torch.testing.assert_close(terms["commitment"], 0.25 * gap.square().mean())
    torch.testing.assert_close(terms["codes"], gap.square().mean())
    of_h, none = torch.autograd.grad(terms["commitment"], [h, part.codes], allow_unused=True, retain_graph=True)
    torch.testing.assert_close(of_h, 0.25 * 2 * gap.detach() / gap.numel())
    assert none is None
    none, of_codes = torch.autograd.grad(terms["codes"], [h, part.codes], allow_unused=True)
    assert none is None
    rows, chosen = h.detach().movedim(1, -1).flatten(0, 2), part.encode(h).flatten()
    expected = torch.zeros_like(part.codes).index_add(0, chosen, 2 * (part.codes.detach()[chosen] - rows) / h.numel())
    torch.testing.assert_close(of_codes, expected)


def test_moving_averages_have_no_code_term():
    part = started()
    _, terms = part(cloud(40), Noise.shared(0, 10), 1.0, 48)
    assert set(terms) == {"commitment"}
    assert not list(part.parameters())


# ── moving averages, against their closed form ───────────────────────────────────────────────────────────────────────


def test_moving_averages_by_hand():
    """Steps 79 to 81: N and m are the weighted sums written out, e = m / Ñ; the decay rises to its bound."""
    part = started(vocab=8, decay=0.9)
    part.age.fill_(79)  # (1 + n) / (10 + n) is 80/89 < 0.9 here, 81/90 = 0.9 at the next step, and more after it
    counts, sums = part.counts.double(), part.sums.double()
    for seed, decay in enumerate((80 / 89, 0.9, 0.9)):
        h = cloud(200, seed=seed)
        rows, chosen = h.movedim(1, -1).flatten(0, 2).double(), part.encode(h).flatten()
        ones = torch.nn.functional.one_hot(chosen, 8).double()
        counts, sums = decay * counts + (1 - decay) * ones.sum(0), decay * sums + (1 - decay) * ones.T @ rows
        step(part, h)
        smooth = (counts + 1e-5) / (counts.sum() + 8e-5) * counts.sum()
        torch.testing.assert_close(part.codes.double(), sums / smooth[:, None], atol=1e-5, rtol=1e-5)


def test_codes_go_to_the_mean_of_what_chooses_them():
    part = started(vocab=2, width=4, decay=0.5)
    centres = torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0]])
    h = centres[torch.arange(80) % 2].reshape(20, 2, 2, 4).movedim(-1, 1) + 0.01 * cloud(80)
    part._put(torch.arange(2), torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]), torch.tensor(10.0))
    for seed in range(20):
        step(part, h, seed)
    torch.testing.assert_close(part.codes, centres, atol=0.01, rtol=0)


def test_tally_and_k_means():
    """Three tight clusters are found, whatever the order; and more centres than vectors is no error."""
    centres = torch.tensor([[0.0, 0], [5, 5], [-5, 5]])
    rows = centres.repeat(50, 1) + 0.01 * torch.randn(150, 2)
    counts, sums = tally(rows, nearest(rows, centres), 3)
    assert counts.tolist() == [50, 50, 50]
    torch.testing.assert_close(sums / 50, centres, atol=0.01, rtol=0)
    draws = torch.linspace(0, 1, 150)  # the first three vectors: one of each cluster
    found, many = k_means(rows, 3, draws)
    torch.testing.assert_close(found, centres, atol=0.01, rtol=0)
    assert many.sum() == 150
    few, _ = k_means(rows[:3], 8, draws[:3])
    assert len(few.unique(dim=0)) == 8


# ── a large alphabet in use ──────────────────────────────────────────────────────────────────────────────────────────


def perplexity(part: Codebook) -> float:
    part.diagnostics()
    for seed in range(10):
        step(part, 0.1 * cloud(400, seed=seed) + 3)
    return part.diagnostics()["perplexity"]


def test_k_means_and_restarts_bring_codes_into_use():
    """Direction test 4 of vqvae.md: data far from where the codes begin. Without help one code takes all; k-means alone
    and restarts alone raise the perplexity several-fold."""
    torch.manual_seed(0)
    helpless = Codebook(64, 4, restart=0.0)
    helpless.fitted.fill_(True)
    restarting = Codebook(64, 4, restart=0.03, decay=0.5)
    restarting.fitted.fill_(True)
    fitted = Codebook(64, 4, restart=0.0)
    fitted.fit(lambda: [0.1 * cloud(400) + 3])
    alone, revived, centred = perplexity(helpless), perplexity(restarting), perplexity(fitted)
    assert alone < 8
    assert revived > 3 * alone
    assert centred > 3 * alone


def test_a_dead_code_starts_anew_at_a_vector_of_the_step():
    part = started(restart=0.1)
    part.codes[3], part.counts[3], part.sums[3] = 100.0, 0.0, 0.0
    h = cloud(200, seed=1)
    step(part, h)
    rows = h.movedim(1, -1).flatten(0, 2)
    assert (rows == part.codes[3]).all(1).any()
    assert part.counts[3] == pytest.approx(float(part.counts[[n for n in range(16) if n != 3]].sum() / 16), rel=0.1)
    assert part.diagnostics()["restarts"] == 1


def test_the_first_accepted_step_fits_what_was_not_prepared():
    part = Codebook(16, 4)
    step(part, 0.1 * cloud(400) + 3)
    assert part.fitted
    assert (part.codes - 3).abs().max() < 1


def test_usage_counts_all_positions_since_the_last_call():
    part = started(vocab=8)
    h = part.codes[torch.tensor([0, 0, 1, 2])].reshape(1, 2, 2, 4).movedim(-1, 1).contiguous()
    step(part, h)
    step(part, h)
    found = part.diagnostics()
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)
    assert found["usage"] == 3 / 8
    assert "perplexity" not in part.diagnostics()


# ── steps that leave no trace ────────────────────────────────────────────────────────────────────────────────────────


def snapshot(part: Codebook) -> list[torch.Tensor]:
    return [value.clone() for value in [*part.state_dict().values(), part.usage]]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_skipped_step_changes_nothing_bitwise():
    part, straight = started(restart=0.03), started(restart=0.03)
    step(part, cloud(200, seed=1))
    before = snapshot(part)
    part(cloud(200, seed=2) * math.nan, Noise.shared(0, 50), 1.0, 48)
    part.forget()
    part.settle(Noise.shared(0, 1))
    assert same(snapshot(part), before)
    step(part, cloud(200, seed=3))
    for seed in (1, 3):
        step(straight, cloud(200, seed=seed))
    assert same(snapshot(part), snapshot(straight))


def test_evaluation_and_the_critics_turn_gather_nothing():
    part = started()
    before = snapshot(part)
    with torch.no_grad():
        part(cloud(200, seed=1), Noise.shared(0, 50), 1.0, 48)
    part.eval()
    part(cloud(200, seed=1), Noise.shared(0, 50), 1.0, 48)
    part.settle(None)
    assert same(snapshot(part), before)


def test_accumulated_parts_equal_one_batch():
    whole, parts = started(decay=0.9), started(decay=0.9)
    h = cloud(400, seed=1)
    step(whole, h)
    for piece in h.split(25):
        parts(piece, Noise.shared(0, 25), 1.0, 48)
    parts.settle(Noise.shared(0, 1))
    torch.testing.assert_close(parts.codes, whole.codes, atol=1e-6, rtol=1e-5)


def test_saved_state_is_all_there_is():
    """A codebook that is filled from a state goes on bitwise as the one it came from."""
    part, other = started(restart=0.03), Codebook(16, 4, restart=0.03)
    step(part, cloud(200, seed=1))
    other.load_state_dict(part.state_dict())
    for each in (part, other):
        step(each, cloud(200, seed=2))
    assert same(list(part.state_dict().values()), list(other.state_dict().values()))


PROCESS = """
import sys, torch, torch.distributed as dist
from sfumato.codecs.codebook import Codebook
from sfumato.core.noise import Noise
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
part = Codebook(16, 4, restart=0.1, decay=0.9)
h = torch.randn(100, 4, 2, 2, generator=torch.Generator().manual_seed(0))
mine = h[rank * 50 : rank * 50 + 50]
part.fit(lambda: [mine])
part.codes[3], part.counts[3] = 100.0, 0.0   # dead on both: its heir must be the same
part.sums[3] = 0.0
part.age.fill_(1000)
for seed in range(3):
    part(mine, Noise.shared(seed, 50, rank * 50, 100), 1.0, 48)
    part.settle(Noise.shared(seed, 50, rank * 50, 100))
torch.save({"counts": part.counts, "codes": part.codes}, sys.argv[3] + str(rank))
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_keep_one_codebook(tmp_path):
    """Two gloo processes with different halves of a batch end bitwise alike; the counts are those of both halves."""
    command = [sys.executable, "-c", PROCESS]
    files = [str(tmp_path / "meeting"), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([*command, str(rank), *files], env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    first, second = (torch.load(files[1] + str(rank), weights_only=True) for rank in (0, 1))
    assert torch.equal(first["codes"], second["codes"])
    assert torch.equal(first["counts"], second["counts"])
    # k-means counted one half (200 positions / 16 codes each, 15 left); three steps of 400 positions at decay 0.9
    mass = 200 * 15 / 16
    for n in range(3):
        mass = 0.9 * mass + 0.1 * 400
        mass *= 17 / 16 if n == 0 else 1  # the heir gets the average count of the sixteen
    assert float(first["counts"].sum()) == pytest.approx(mass, rel=1e-4)
    assert first["codes"].abs().max() < 10
