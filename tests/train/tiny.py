"""Tiny objectives with every kind of state that a training has, and data as a function of the step's number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.core.noise import derive
from sfumato.recipes.plan import Plan

PLAN = Plan(steps=40, batch=8, rate=1e-2, decay=0.01, ema=0.9, warmup=0.1, flip=False)


def draw(*parts, shape=(8, 1, 4, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(derive(*parts)))


class Data:
    """Batch k of a set of `count` pictures in an order drawn per epoch; `salt` gives another order."""

    def __init__(self, count=20, batch=8, salt=0, rank=0, world=1, spoil=()):
        self.pictures = draw("data", shape=(count, 1, 4, 4))
        self.count, self.batch, self.salt, self.rank, self.world = count, batch, salt, rank, world
        self.spoil = spoil  # steps whose first picture is not finite

    def at(self, k):
        share = self.batch // self.world
        start = k * self.batch + self.rank * share
        order = [self._order(p // self.count)[p % self.count] for p in range(start, start + share)]
        image = self.pictures[order].clone()
        if k in self.spoil:
            image[0, 0, 0, 0] = float("nan")
        return {"image": image, "index": torch.tensor(order)}

    def _order(self, epoch):
        g = torch.Generator().manual_seed(derive("order", epoch, self.salt))
        return torch.randperm(self.count, generator=g).tolist()


class One(nn.Module):
    """A denoising autoencoder with batch statistics, dropout, and codes that settle without a gradient."""

    def __init__(self, dropout=0.1, norm=True, settles=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body = nn.Sequential(
                nn.Linear(16, 12), nn.BatchNorm1d(12) if norm else nn.Identity(), nn.SiLU(), nn.Dropout(dropout)
            )
            self.head = nn.Linear(12, 16)
        self.register_buffer("codes", torch.zeros(12))
        self.gathered, self.settles = None, settles
        self.fault = None  # called with (self, loss) before the loss is returned

    def loss(self, batch, player=0, noise=None, progress=1.0):
        x = batch["image"].flatten(1)
        h = self.body(x + 0.1 * noise.normal(16))
        seen = torch.cat([h.detach().sum(0), torch.tensor([len(h)])])  # sums and counts, so that parts add up
        self.gathered = seen if self.gathered is None else self.gathered + seen
        loss = (self.head(h + self.codes) - x).square().mean()
        if self.fault is not None:
            loss = self.fault(self, loss)
        return {"error": loss, "size": 0.01 * (1 - progress) * h.square().mean()}

    def players(self):
        return [list(self.parameters())]

    def prepare(self, batches): ...

    def settle(self, noise=None):
        if self.settles and self.gathered is not None:
            with torch.no_grad():
                mean = self.gathered[:-1] / self.gathered[-1]
                self.codes.lerp_(mean + 0.01 * noise.normal(12).mean(0), 0.1)
        self.gathered = None

    def forget(self):
        self.gathered = None

    def finish(self, batches): ...

    def diagnostics(self):
        return {"codes": float(self.codes.norm())}


class Two(nn.Module):
    """A generator and a critic; the critic sits out the first quarter, and its spectral norm is a moving buffer."""

    def __init__(self, spectral=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.generator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16))
            self.critic = nn.Sequential(nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 1))
            if spectral:
                nn.utils.spectral_norm(self.critic[0])
        self.fault = None

    def loss(self, batch, player=0, noise=None, progress=1.0):
        fake = self.generator(noise.normal(4))
        if player == 0:
            terms = {"fool": nn.functional.softplus(-self.critic(fake)).mean()}
        elif progress < 0.25:
            return {}
        else:
            real = self.critic(batch["image"].flatten(1))
            terms = {
                "real": nn.functional.softplus(-real).mean(),
                "fake": nn.functional.softplus(self.critic(fake)).mean(),
            }
        if self.fault is not None:
            terms["extra"] = self.fault(self, player)
        return terms

    def players(self):
        return [list(self.generator.parameters()), list(self.critic.parameters())]

    def prepare(self, batches): ...

    def settle(self, noise=None): ...

    def forget(self): ...

    def finish(self, batches): ...

    def diagnostics(self):
        return {}
