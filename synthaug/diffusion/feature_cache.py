"""Deep features of the U-Net kept between steps (DeepCache, Ma et al. 2023, arXiv:2312.00858).

What a U-Net computes at its coarse levels changes little from one step to the next. With an interval n all of it runs at every
n-th step only; between, the first down block and the last up block run, on the coarse features of the last full step:

    conv_in -> down_blocks[0] -> (kept: down_blocks[1:], mid_block, up_blocks[:-1]) -> up_blocks[-1] -> conv_out

Films change; benchmarks/sampler_settings.py measures by how much.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def cached_features(unet: Any, interval: int) -> Iterator[Callable[[int], None]]:
    """Keep coarse features inside the context; call what it gives with the number of each step, from 0, before that step.

    A batch of another size than that of the kept features is computed in full. An interval of 1 changes nothing.
    """
    if interval == 1:
        yield lambda step: None
        return
    blocks = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]
    kept: dict[nn.Module, tuple[int, Any]] = {}

    def begin(step: int) -> None:
        if step % interval == 0:
            kept.clear()

    def keeping(block: nn.Module, compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **more: Any) -> Any:
            if block not in kept or kept[block][0] != len(hidden_states):
                kept[block] = len(hidden_states), compute(hidden_states, *args, **more)
            return kept[block][1]

        return forward

    for block in blocks:
        block.forward = keeping(block, block.forward)
    try:
        yield begin
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again
