"""Products with few rows, over and over with the same weights: what one step of a cached transformer is.

On a CPU such a product is as fast as the weights come in, and they come in faster in the layout that oneDNN's kernels
read: 2.0 to 2.4 times, measured with 1 to 32 rows in float32. So `packed` copies a network with every linear layer's
weight laid out anew, once, before the steps. The copy shares everything else and is used without gradients.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

MOST_ROWS = 64  # with more, a product is bound by arithmetic, and the layout gains nothing


class PackedLinear(nn.Module):
    """x Wᵀ + b, W in oneDNN's layout for about so many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def gains(module: nn.Module, rows: int) -> bool:
    """Whether a packed copy may stand in for the module: on a CPU, in float32, without gradients. The two operators are
    torch's own but not public, so that a build without them goes on without the gain."""
    return (
        rows <= MOST_ROWS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and any(_plain(part) for part in module.modules())
    )


def packed(module: nn.Module, rows: int) -> nn.Module:
    """A copy of the module's tree in which linear layers are packed; the module itself where that gains nothing."""
    return _packed(module, rows) if gains(module, rows) else module


def _packed(module: nn.Module, rows: int) -> nn.Module:
    if _plain(module):
        assert isinstance(module, nn.Linear)
        return PackedLinear(module.weight, module.bias, rows)
    twin = copy.copy(module)
    twin._modules = {name: child if child is None else _packed(child, rows) for name, child in module._modules.items()}
    return twin


def packed_product(weight: Tensor, rows: int) -> nn.Module | None:
    """x Wᵀ for a weight that is no layer's (a tied head reads the embedding); None where packing gains nothing."""
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return PackedLinear(weight, None, rows) if gains(layer, rows) else None
