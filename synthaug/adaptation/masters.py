"""What is kept in float32 of a network in training: master weights, their moments and their moving average.

Under autocast the network itself is float32 and each weight is cast at each use. Halved, it holds bfloat16 copies of all of
its weights and is not cast. Gradients are then added up in float32, the optimizer moves the
masters, and the copies follow (Micikevicius et al. 2018, arXiv:1710.03740).
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from synthaug.adaptation.sharding import own
from synthaug.diffusion.components import quiet
from synthaug.errors import NotInstalledError, UnknownNameError

OPTIMIZERS = ("adamw", "adamw8bit")
# What the two keep of a weight; bitsandbytes' `state*` are 8-bit codes of the tables `qmap*`, block by block.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2", "qmap1", "qmap2")


class Masters:
    """Float32 weights of a module by name; the parameters themselves unless `half`.

    Attributes:
        weights: what the optimizer moves, by the names of the trainable parameters.
    """

    def __init__(self, module: nn.Module, half: bool = False):
        self.module, self.half = module, half
        self.copies = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.weights: dict[str, nn.Parameter] = dict(self.copies)
        self.frozen: dict[str, Tensor] = {}
        if half:
            self.weights = {name: nn.Parameter(p.detach().float().clone()) for name, p in self.copies.items()}
            for name, p in module.named_parameters():
                if name not in self.copies:
                    self.frozen[name] = p.data
                p.data = p.data.to(torch.bfloat16)

    def collect(self) -> None:
        """Add the gradients of the copies, those of one piece of a batch, to those of the masters."""
        if not self.half:
            return
        for name, p in self.copies.items():
            if p.grad is None:
                continue
            master = self.weights[name]
            if master.grad is None:
                master.grad = p.grad.float()
            else:
                master.grad += p.grad
            p.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Let the copies follow the masters."""
        if self.half:
            torch._foreach_copy_(
                [p.data for p in self.copies.values()], [w.data for w in self.weights.values()]
            )

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        """Put other values into the network, for samples; the masters of a halved one stay as they are."""
        for name, p in self.copies.items():
            p.copy_(values[name])

    def restore(self) -> None:
        """Give the network float32 weights again: the masters, and what was frozen to the bit."""
        if self.half:
            for name, p in self.module.named_parameters():
                p.data = self.frozen[name] if name in self.frozen else self.weights[name].data
            self.half, self.frozen, self.weights = False, {}, dict(self.copies)


def in_kind(model: nn.Module, kind: torch.dtype) -> nn.Module:
    """The model itself, or a copy of it in another precision, beside halved networks in samples."""
    if next(model.parameters()).dtype == kind:
        return model
    with quiet():
        return copy.deepcopy(model).to(kind)


def make_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Fused AdamW, or "adamw8bit" of bitsandbytes: moments of 8 bits (Dettmers et al. 2021, arXiv:2110.02861).

    Raises:
        UnknownNameError: no such optimizer.
        NotInstalledError: bitsandbytes is missing.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    how: dict[str, Any] = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **how)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise NotInstalledError(
            "--optimizer adamw8bit: bitsandbytes is not installed; run `pip install bitsandbytes`, or leave the flag out"
        ) from error
    made: torch.optim.Optimizer = AdamW8bit(groups, **how)
    return made


def moments(optimizer: Any, weight: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of one weight; numbers (bitsandbytes counts its steps in one) become tensors."""
    return {
        key: value if isinstance(value, Tensor) else torch.as_tensor(value)
        for key, value in optimizer.state[weight].items()
    }


def set_moments(optimizer: Any, weight: Tensor, stored: Mapping[str, Tensor]) -> None:
    """Put a saved state of one weight back, or of the rows of one that is cut."""
    for key, value in stored.items():
        if not value.dtype.is_floating_point and value.ndim == 0:
            optimizer.state[weight][key] = int(value)
            continue
        # Fused AdamW walks weights and moments side by side: equal strides, not only shapes.
        like = (
            torch.empty_like(weight, dtype=value.dtype)
            if value.shape == own(weight).shape
            else torch.empty_like(value)
        )
        own(like).copy_(value)
        optimizer.state[weight][key] = like
