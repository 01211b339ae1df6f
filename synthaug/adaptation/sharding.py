"""Networks cut over the processes: each holds its rows of every weight, gradient, moment and moving average.

A block's weights are gathered when the block computes, and its gradients are averaged into their owners' rows (Rajbhandari et
al. 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277), by torch's `fully_shard`. It is asked for in accelerate's words,
`accelerate launch --use_fsdp` or a configuration file. Accelerate itself follows them on GPUs alone, so they are read here and
the same code runs on any device. A cut tensor is a `DTensor`, rows over the processes in order; nothing on disk is cut.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from synthaug.diffusion.components import quiet
from synthaug.errors import UserError

# What frees a block's weights between its forward and its backward pass, in the words of either version.
STRATEGIES = {"FULL_SHARD": True, "1": True, "SHARD_GRAD_OP": False, "2": False}
RESHARD = {"true": True, "false": False}


class Sharding(NamedTuple):
    """`reshard`: free a block's weights after its forward pass; `units`: classes of blocks, the networks' own when None."""

    reshard: bool = True
    units: tuple[str, ...] | None = None


def requested() -> Sharding | None:
    """What accelerate's launcher was asked for, which it tells in the environment; None where that is no sharding.

    Raises:
        UserError: a setting that is not followed here.
    """
    if not _on("ACCELERATE_USE_FSDP"):
        return None
    if _on("FSDP_OFFLOAD_PARAMS"):
        raise UserError("--fsdp_offload_params true: weights stay on their devices; expected false")
    if _on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError(
            "--fsdp_activation_checkpointing true: expected false; give --checkpointing to `synthaug adapt`"
        )
    flag, words = "fsdp_reshard_after_forward", RESHARD
    if os.environ.get("FSDP_VERSION", "1") == "1":
        flag, words = "fsdp_sharding_strategy", STRATEGIES
    word = os.environ.get(flag.upper(), next(iter(words)))
    if (reshard := words.get(word)) is None:
        raise UserError(f"--{flag} {word}: expected {' or '.join(w for w in words if not w.isdigit())}")
    return Sharding(reshard, _units())


def _on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def _units() -> tuple[str, ...] | None:
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper()
    if policy == "NO_WRAP":
        return ()
    if policy != "TRANSFORMER_BASED_WRAP":
        raise UserError(f"--fsdp_auto_wrap_policy {policy}: expected TRANSFORMER_BASED_WRAP or NO_WRAP")
    names = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    return tuple(names.split(",")) if names else None


def shard(module: nn.Module, how: Sharding, device: torch.device) -> dict[str, nn.Module]:
    """Cut in place those children of `module` that learn; frozen ones stay whole, so that one process may use them alone.

    Returns:
        A copy of each without memory, which `assemble` fills.

    Raises:
        UserError: a class that no network has.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    learning = {
        name: child
        for name, child in module.named_children()
        if any(p.requires_grad for p in child.parameters())
    }
    if how.units:
        known = {type(part).__name__ for child in learning.values() for part in child.modules()}
        if unknown := set(how.units) - known:
            raise UserError(
                f"--fsdp_transformer_layer_cls_to_wrap {', '.join(sorted(unknown))}: no such class in what is trained; "
                "leave the flag out to take the networks' own blocks"
            )
    plans = {name: _plan(child) for name, child in learning.items()}
    for child in learning.values():
        for p in child.parameters():
            p.data = p.data.contiguous()  # rows are cut from it
        units = _own_units(child) if how.units is None else set(how.units)
        # Inner blocks first: an outer one takes what is left.
        for part in reversed(list(child.modules())):
            if part is child or (type(part).__name__ in units and any(True for _ in part.parameters())):
                fully_shard(part, mesh=mesh, reshard_after_forward=how.reshard)
    return plans


def _own_units(network: nn.Module) -> set[str]:
    """Classes that the authors of a network, or of a part of it, want whole on one device."""
    return {name for part in network.modules() for name in getattr(part, "_no_split_modules", None) or ()}


def _plan(network: nn.Module) -> nn.Module:
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    with quiet():
        return copy.deepcopy(network, empty)


def settle(module: nn.Module) -> None:
    """Free what is gathered of a network, so that it computes with values that were written into its cut weights."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def assemble(
    module: nn.Module, plans: Mapping[str, nn.Module], values: Mapping[str, Tensor], here: bool
) -> None:
    """Put whole networks on the CPU in the place of cut ones, where `here`; every process calls.

    Args:
        plans: from `shard`.
        values: parameters by their names in `module`, cut or whole; the network's own where there is none.
    """
    settle(module)
    for child, plan in plans.items():
        found: dict[str, Tensor] = {}
        for name, p in module.get_submodule(child).named_parameters():
            value = whole(values.get(f"{child}.{name}", p.detach()))
            if here:
                found[name] = value.cpu()
        if here:
            plan.load_state_dict(found, strict=False, assign=True)
            module.set_submodule(child, plan)


def whole(value: Tensor) -> Tensor:
    """All rows, on every process; every process calls."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own(value: Tensor) -> Tensor:
    """The rows that this process holds, as a view."""
    return value.to_local() if isinstance(value, DTensor) else value


def read(state: Any, key: str, like: Tensor) -> Tensor:
    """A tensor of an open safetensors file; of one that is cut as `like` is, this process's rows alone."""
    stored = state.get_slice(key)
    if not isinstance(like, DTensor) or tuple(stored.get_shape()) != tuple(like.shape):
        return state.get_tensor(key)
    size = -(-len(like) // like.device_mesh.size())
    start = min(len(like), size * like.device_mesh.get_local_rank())
    rows = own(like)
    return stored[start : start + len(rows)] if len(rows) else torch.empty_like(rows)
