"""What a representation knows: a linear classifier on frozen features.

    min over W, b of  mean −log softmax(W h̃ + b)[y] + (λ / 2) |W|²,     h̃ standardised by the training set

Convex, so that the answer depends on the features alone and not on a learning rate; solved by L-BFGS in float64.
Shapes: features (N, D), labels (N,) int64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, penalty: float = 1e-3, steps: int = 200
) -> float:
    """Accuracy on the test features."""
    mean, spread = train.double().mean(0), train.double().std(0).clamp_min(1e-8)
    x, held = (train.double() - mean) / spread, (test.double() - mean) / spread
    classes = 1 + int(torch.cat([train_labels, test_labels]).max())
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, train_labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[arg-type]
    found = (held @ weight.detach().T + bias.detach()).argmax(1)
    return float((found == test_labels).double().mean())
