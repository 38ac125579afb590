"""The loop: one for every model.

    for k = step, step + 1, …:
        batch k, in `accumulate` parts of equal rows
        gᵢ ← ∇ of player i's terms, averaged over the parts and over all processes           for each player i
        if every loss and every |gᵢ| is finite, and none towers above its own median:
            clip, AdamW, average, objective.settle        else nothing has changed: objective.forget

It is a generator that yields a `Step` and calls nobody back: logging, checkpoints, sample grids are the caller's `for`.

Two players' gradients are taken at the same weights and both then step, so that a step is all or nothing. (With
regularised critics simultaneous and alternating updates share their local convergence: Mescheder et al. 2018,
arXiv:1801.04406.) Losses and norms travel to the host in one vector a step, after the next batch was asked for.

Randomness: step k draws from derive(seed, "step", k, player), the whole global batch's numbers, of which each process
and each part keeps its own rows; so neither accumulation nor the number of processes changes them. Torch's global
generator, which dropout uses, is forked and seeded for the step, and the caller's own is left as it was.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sfumato.core.contracts import Batch, Objective
from sfumato.core.errors import Diverged
from sfumato.core.noise import Noise, derive
from sfumato.recipes.plan import Plan
from sfumato.train.clock import now
from sfumato.train.optim import rate, set_rate
from sfumato.train.parallel import agreed, averaged, exchange, quiet
from sfumato.train.shards import local, whole
from sfumato.train.state import State

MOST_BAD = 10  # non-finite steps in a row that are passed over
TOWERS = 25.0  # a gradient norm this many times its running median is not believed
KNOWN = 16  # norms that must be known before one can be disbelieved


class Numbered(Protocol):
    """Data: batch k as a function of k, this process's rows of it."""

    def at(self, k: int) -> Batch: ...


@dataclass(frozen=True)
class Step:
    """What happened in one step. `loss` is player 0's; a second player's terms are named "2:term"."""

    step: int  # steps done, this one included
    progress: float  # of the stage, this step included
    loss: float
    terms: dict[str, float]
    rate: float
    norms: list[float]  # of each player's gradient, before clipping; NaN for one that sat out
    rows: int  # over all processes
    seconds: float
    skipped: str = ""  # why nothing was changed; empty when it was
    index: list[int] = field(default_factory=list)  # the pictures of a skipped step


def fit(
    objective: Objective,
    batches: Numbered,
    plan: Plan,
    *,
    seed: int = 0,
    state: State | None = None,
    accelerator: Accelerator | None = None,
    minutes: float | None = None,
) -> Iterator[Step]:
    """Trains until plan.steps are done, or until `minutes` are over where they are given (then plan.steps is unused).

    The minutes count the caller's work between two steps too. Raises Diverged after more than MOST_BAD non-finite steps
    in a row. `state` may be a loaded one; it is current whenever the generator has yielded.
    """
    if state is None:
        state = State(objective, plan, accelerator=accelerator)
        try:
            yield from fit(objective, batches, plan, seed=seed, state=state, minutes=minutes)
        finally:
            state.close()
        return
    clock = Clock(state, plan, minutes)
    step = _Step(state, seed)
    batch: Batch | None = None
    while not clock.over():
        batch = batches.at(state.step) if batch is None else batch
        if not objective.training:  # type: ignore[attr-defined]
            objective.train()  # type: ignore[attr-defined]
        started = now()
        progress = clock.middle()
        step.gradients(batch, progress)
        following = batches.at(state.step + 1) if clock.another() else None  # while the device still computes
        report = step.conclude(batch, progress)
        state.step += 1
        clock.tick()
        yield Step(progress=clock.progress(), seconds=now() - started, step=state.step, **report)
        if state.bad > MOST_BAD:
            raise Diverged(
                f"{state.bad} steps in a row gave {report['skipped']}, the last of them step {state.step} on the "
                f"pictures {report['index']}. The weights are those before. Lower the rate, or use fp32."
            )
        batch = following


class Clock:
    """Progress in [0, 1], by steps or by minutes; the schedules' only argument."""

    def __init__(self, state: State, plan: Plan, minutes: float | None):
        self.state, self.steps = state, plan.steps
        self.budget = None if minutes is None else max(60 * minutes, 1e-9)
        self.begun, self.first = now() - state.elapsed, state.step
        self.started = state.elapsed

    def tick(self) -> None:
        self.state.elapsed = now() - self.begun

    @property
    def per_step(self) -> float:
        """Seconds a step of this process has taken so far, the caller's part included."""
        done = self.state.step - self.first
        return (self.state.elapsed - self.started) / done if done else 0.0

    def over(self) -> bool:
        """By minutes: whether the next step would end nearer beyond the budget than this one before it."""
        if self.budget is None:
            return self.state.step >= self.steps
        if self.state.step == 0:  # never zero steps in silence
            return False
        self.tick()
        return agreed(self.state.elapsed + self.per_step / 2, self.state.accelerator) >= self.budget

    def another(self) -> bool:
        return self.budget is not None or self.state.step + 1 < self.steps

    def progress(self) -> float:
        if self.budget is None:
            return self.state.step / self.steps
        return min(1.0, self.state.elapsed / self.budget)

    def middle(self) -> float:
        """Progress in the middle of the step that begins."""
        if self.budget is None:
            return (self.state.step + 0.5) / self.steps
        ahead = (self.state.elapsed + self.per_step / 2) / self.budget
        return min(1.0, agreed(ahead, self.state.accelerator))


class _Step:
    """One step in two halves: `gradients` queues the work, `conclude` reads the outcome and acts on it."""

    def __init__(self, state: State, seed: int):
        self.state, self.seed = state, seed
        self.buffers: list[Tensor] = []
        self.saved: list[Tensor] = []

    # ---- first half: on the device, without waiting ----

    def gradients(self, batch: Batch, progress: float) -> None:
        state = self.state
        self._save_buffers()
        self.rows = _rows(batch)
        parts = _parts(batch, state.plan.accumulate, self.rows, state.accelerator.device)
        self.losses: list[Tensor | None] = []
        self.terms: dict[str, Tensor] = {}
        self.norms: list[Tensor | None] = []
        for player, parameters in enumerate(state.players):
            _listen(state.players, player)
            loss = None
            for start, part in parts:
                last = start + _rows(part) == self.rows
                loss = self._part(part, start, player, progress, last, loss)
            if loss is not None:
                exchange(state.turn, parameters, state.accelerator)
            grads = [p.grad for p in parameters if p.grad is not None]
            self.losses.append(loss)
            self.norms.append(_norm(grads) if loss is not None and grads else None)

    def _part(
        self, part: Batch, start: int, player: int, progress: float, last: bool, loss: Tensor | None
    ) -> Tensor | None:
        """One part's forward and backward pass; the player's loss so far, or None when it sits this step out."""
        state, rows = self.state, _rows(part)
        rank = state.accelerator.process_index
        dropout = derive(self.seed, "dropout", state.step, player, rank, start)
        with quiet(state.turn, state.accelerator, last), seeded(dropout, state.accelerator.device):
            with state.accelerator.autocast():
                terms = state.turn(part, player, self._noise(rows, start, player), progress)
            if not terms:
                return loss
            weight = rows / self.rows  # so that the parts' mean is the batch's, even when they differ in size
            total = sum(term.float() for term in terms.values()) * weight
            state.accelerator.backward(total)
        for name, term in terms.items():
            name = name if player == 0 else f"{player + 1}:{name}"
            value = term.detach().float() * weight
            self.terms[name] = self.terms[name] + value if name in self.terms else value
        return total.detach() if loss is None else loss + total.detach()

    def _noise(self, rows: int, start: int, player: int | str) -> Noise:
        accelerator = self.state.accelerator
        return Noise.shared(
            derive(self.seed, "step", self.state.step, player),
            rows,
            accelerator.process_index * self.rows + start,
            accelerator.num_processes * self.rows,
            accelerator.device,
        )

    @torch.no_grad()
    def _save_buffers(self) -> None:
        """A loss may move buffers (batch statistics, power iterations); a skipped step puts them back."""
        live = [b for b in self.state.objective.buffers() if b.numel()]  # type: ignore[attr-defined]
        if [id(b) for b in live] != [id(b) for b in self.buffers] or any(
            b.shape != s.shape for b, s in zip(live, self.saved)
        ):
            self.buffers, self.saved = live, [torch.empty_like(b) for b in live]
        _copy(self.saved, self.buffers)

    # ---- second half: one look at the numbers, then all or nothing ----

    def conclude(self, batch: Batch, progress: float) -> dict[str, Any]:
        state = self.state
        names = list(self.terms)
        nothing = torch.full((), math.nan, device=state.accelerator.device)
        scalars = [*self.losses, *self.norms, *self.terms.values()]
        values = torch.stack([nothing if s is None else s.detach().float().reshape(()) for s in scalars])
        read = averaged(values, state.accelerator).tolist()  # the step's only wait for the device
        n = len(state.players)
        losses, norms, terms = read[:n], read[n : 2 * n], dict(zip(names, read[2 * n :]))
        played = [i for i in range(n) if self.losses[i] is not None]
        skipped = self._fault(played, losses, norms)
        value = rate(state.plan, progress)
        if skipped:
            self._undo()
        elif played:
            self._apply(played, norms, value)
        return {
            "loss": losses[0] if 0 in played else sum(losses[i] for i in played),
            "terms": terms,
            "rate": value,
            "norms": norms,
            "rows": self.rows * state.accelerator.num_processes,
            "skipped": skipped,
            "index": _index(batch, state.accelerator) if skipped else [],
        }

    def _fault(self, played: Sequence[int], losses: Sequence[float], norms: Sequence[float]) -> str:
        """Why the step must not count; empty when it may. Keeps the record that it judges by."""
        state = self.state
        reason = ""
        if not all(math.isfinite(losses[i]) for i in played):
            reason = "a non-finite loss"
        elif not all(math.isfinite(norms[i]) for i in played if self.norms[i] is not None):
            reason = "a non-finite gradient"
        state.bad = state.bad + 1 if reason else 0
        if reason:
            return reason
        for i in played:
            if self.norms[i] is None:
                continue
            seen = state.norms[i]
            median = statistics.median(seen) if len(seen) >= KNOWN else math.inf
            # Disbelieved norms are remembered too: if they become the rule, the median is there in half a window.
            seen.append(norms[i])
            if norms[i] > TOWERS * median > 0:
                reason = f"a gradient norm of {norms[i]:.3g} where {median:.3g} is usual"
        return reason

    def _undo(self) -> None:
        _drop_gradients(self.state.players)
        with torch.no_grad():
            _copy(self.buffers, self.saved)
        self.state.objective.forget()

    def _apply(self, played: Sequence[int], norms: Sequence[float], value: float) -> None:
        state = self.state
        for i in played:
            optimizer = state.optimizers[i]
            if norms[i] > state.plan.clip > 0:
                grads = [local(p.grad) for p in state.players[i] if p.grad is not None]
                torch._foreach_mul_(grads, state.plan.clip / norms[i])
            set_rate(optimizer, value)
            optimizer.step()
        _drop_gradients(state.players)
        state.average.update()
        state.objective.settle(self._noise(self.rows, 0, "settle"))


# ---- small sentences ----


def _rows(batch: Batch) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, (Tensor, list)) and len(value))


def _parts(batch: Batch, accumulate: int, rows: int, device: torch.device) -> list[tuple[int, Batch]]:
    """(first row, part) of at most `accumulate` consecutive parts, on the device."""
    size = math.ceil(rows / max(1, accumulate))
    moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return [
        (start, {key: value[start : start + size] for key, value in moved.items()}) for start in range(0, rows, size)
    ]


def _listen(players: Sequence[Sequence[nn.Parameter]], player: int) -> None:
    """Only this player's parameters gather gradients, so that no graph is built for the other's."""
    for i, parameters in enumerate(players):
        for p in parameters:
            p.requires_grad_(i == player)


def _drop_gradients(players: Sequence[Sequence[nn.Parameter]]) -> None:
    for parameters in players:
        for p in parameters:
            p.grad = None


def _norm(grads: Sequence[Tensor]) -> Tensor:
    return whole(torch.nn.utils.get_total_norm(list(grads)))


def _copy(into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    if into:
        torch._foreach_copy_([local(t) for t in into], [local(t) for t in source])


def _index(batch: Batch, accelerator: Accelerator) -> list[int]:
    """Which pictures a step saw, over all processes."""
    index = batch.get("index")
    if index is None:
        return []
    return accelerator.gather(index.to(accelerator.device)).tolist()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start from `seed` inside, and go on as if nothing had been, outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
