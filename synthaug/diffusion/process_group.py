"""The processes that a launcher started: how they meet after one of them died, and how they part.

torch's launcher keeps one store over all restarts, and the new workers may read there where the dead ones listened (pytorch
issue 135712). So each restart meets in a corner of its own. Several machines count restarts each for itself: the launcher is then
told, `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, to make a new store each time.
"""

import atexit
import os
import time

import torch
from torch import distributed

LETTING_GO_S = 0.2


def join(device: torch.device) -> None:
    """Meet the other workers of this restart, where this is one; a first start is left to accelerate. Part at exit."""
    atexit.register(_part)
    told = os.environ
    count = told.get("TORCHELASTIC_RESTART_COUNT", "0")
    kept = told.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and told.get("GROUP_WORLD_SIZE") == "1"
    if count == "0" or not kept or distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(told["LOCAL_RANK"]))
    store = distributed.TCPStore(told["MASTER_ADDR"], int(told["MASTER_PORT"]), is_master=False)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"restart-{count}", store),
        rank=int(told["RANK"]),
        world_size=int(told["WORLD_SIZE"]),
    )


def _part() -> None:
    # Gloo's threads abort a process that ends before them: a run that was finished would count as failed.
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()
        # A thread of theirs still lets go of its last tensor, for which it needs the interpreter.
        time.sleep(LETTING_GO_S)
