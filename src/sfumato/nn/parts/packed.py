"""Products with few rows, over and over with the same weights: what one step of a cached transformer is.

On a CPU such a product is as fast as the weights come in, and they come in faster in the layout that oneDNN's kernels
read: about twice, measured with 1 to 32 rows in float32, and four times in bfloat16. So `packed` copies a network with
every linear layer's weight laid out anew, once, before the steps. The copy shares everything else and is used without
gradients; under autocast its products are in bfloat16, as the layers' own would be.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

MOST_ROWS = 64  # with more, a product is bound by arithmetic, and the layout gains nothing
LAYOUT = 64  # the number of rows to lay out for: what oneDNN picks for one row reads 1.5 times slower, with one row too


class PackedLinear(nn.Module):
    """x Wᵀ + b in `dtype`, W in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), LAYOUT)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")


def precision() -> torch.dtype | None:
    """In what to multiply here and now; None where packing is not for: gradients, or a build without the operators,
    which are torch's own but not public."""
    operators = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    if torch.is_grad_enabled() or not torch.backends.mkldnn.is_available() or not operators:
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    fast = torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else None


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def packed(module: nn.Module, rows: int) -> nn.Module:
    """A copy of the module's tree in which float32 linear layers are packed, for products of so many rows; the module
    itself where that gains nothing."""
    dtype = precision()
    if dtype is None or rows > MOST_ROWS or not any(_plain(part) for part in module.modules()):
        return module
    return _packed(module, dtype)


def _packed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    if _plain(module):
        assert isinstance(module, nn.Linear)
        return PackedLinear(module.weight, module.bias, dtype)
    twin = copy.copy(module)
    children = module._modules.items()
    twin._modules = {name: child if child is None else _packed(child, dtype) for name, child in children}
    return twin


def packed_product(weight: Tensor, rows: int) -> nn.Module | None:
    """x Wᵀ for a weight that is no layer's (a tied head reads the embedding); None where packing gains nothing."""
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    twin = packed(layer, rows)
    return None if twin is layer else twin
