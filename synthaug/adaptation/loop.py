"""One training loop for every route: a generator of step records; the caller owns bars, logs and stopping.

A route names its players (a module with its own optimizer: the U-Net; or an autoencoder and its
discriminator) and gives, for each, the loss of a batch. A batch is a function of (seed, step) alone, so a run
that was killed and started again sees what it would have seen: the losses are those of an uninterrupted run.

Master weights, moments and the moving average are float32 in `FOLDER/state.safetensors`. The recipe's batch is
that of all processes together; `micro_batch` cuts each process's share into pieces whose gradients add up to
that of the whole, so neither processes nor memory change what is learnt beyond rounding. With `sharding` each
process holds a part of all that; the file is the same, so any number of processes goes on from it.
"""

import json
import math
import shutil
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn

from synthaug.adaptation import averages, sharding, tensor_files
from synthaug.adaptation.averages import NONE_KEPT, Averaging
from synthaug.adaptation.batches import length, pieces
from synthaug.adaptation.masters import MOMENTS, Masters, make_optimizer, moments, set_moments
from synthaug.adaptation.sharding import Sharding
from synthaug.errors import DiskFullError, OutputFolderError, TrainingDivergedError, UserError
from synthaug.recipes import Recipe, differences

STATE = "state.safetensors"
AHEAD = 4  # batches that threads draw while one is learnt from
SKIPS = 10  # steps in a row without a finite gradient that are left out before a run ends


class LoopRecipe(Recipe):
    """How long and how fast. Rates rise linearly over `warmup` steps and fall to 0 over the last `decay` share."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=100, ge=0)
    decay: float = Field(default=0.4, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    seed: int = 0

    def rate(self, step: int) -> float:
        """Share of the full learning rate at `step`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return rise * min(1.0, fall)


@dataclass(frozen=True)
class StepRecord:
    """What one step did: loss and further figures of each player, averaged over the batch."""

    step: int
    figures: Mapping[str, float]
    learning_rate: float


class Route(Protocol):
    """What the loop asks of a route. `players` may be replaced by the loop with distributed wrappers."""

    players: dict[str, nn.Module]

    def batch(self, step: int, rank: int, world: int) -> Any:
        """This process's slice of the batch of `step`, a function of (seed, step) alone; threads call it at once."""

    def loss(self, player: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Loss of one player and figures worth a log line; None where the player rests."""


class Training:
    """Optimizers, moving averages and position of a run; iterate `run()` to advance it.

    Args:
        route: what is trained.
        recipe: length and rates.
        folder: where the state lives; a state found there is resumed.
        identity: what must be equal for a resume (recipe, data digest); a difference is an error that names it.
        accelerator: device, precision and processes.
        rates: start of a parameter's name -> its share of the learning rate; 1 where nothing fits.
        micro_batch: films at once on a device; all of a process's share when None.
        half: let the networks hold bfloat16 weights while they learn; `finish` gives them back theirs.
        optimizer: "adamw" or "adamw8bit".
        averaging: which averages are kept, and which one `averaged` gives.
        sharded: cut the players over the processes.

    Raises:
        OutputFolderError: the folder holds the state of another run.
        TrainingDivergedError: a loss, or the gradient of eleven steps in a row, is not finite; the last saved state is kept.
        DiskFullError: the disk has no room for the state; said before the first step.
        UserError: more processes than the batch has films for, several with `half`, 8-bit moments with `sharded`.
        NotInstalledError: the optimizer's library is missing.
    """

    def __init__(
        self,
        route: Route,
        recipe: LoopRecipe,
        folder: Path,
        identity: Mapping[str, Any],
        accelerator: Accelerator,
        rates: Mapping[str, float] | None = None,
        micro_batch: int | None = None,
        half: bool = False,
        optimizer: str = "adamw",
        averaging: Averaging = NONE_KEPT,
        sharded: Sharding | None = None,
    ):
        self.averaging = averaging
        self.route, self.recipe, self.folder, self.identity = route, recipe, folder, dict(identity)
        self.accelerator, self.micro_batch = accelerator, micro_batch
        _check_processes(recipe.batch_size, accelerator.num_processes, half)
        if sharded and optimizer != "adamw":
            raise UserError(
                f"--optimizer {optimizer}: cannot be cut over processes; with --use_fsdp expected adamw"
            )
        if optimizer != "adamw":
            self.identity["optimizer"] = optimizer  # its moments are of another kind
        self.optimizers: dict[str, Any] = {}
        self.masters: dict[str, Masters] = {}
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.plans: dict[str, dict[str, nn.Module]] = {}
        self.step = self.skipped = 0
        if accelerator.device.type == "cuda":
            # cuDNN's backward gives NaN where keys do not fill its tiles of 128 (github.com/pytorch/pytorch/issues/196678).
            torch.backends.cuda.enable_cudnn_sdp(False)
        for name, module in route.players.items():
            module.to(accelerator.device)
            if sharded:
                self.plans[name] = sharding.shard(module, sharded, accelerator.device)
            elif accelerator.device.type == "cuda":
                module.to(memory_format=torch.channels_last)
            self.masters[name] = held = Masters(module, half)
            made = make_optimizer(
                optimizer,
                _groups(held.weights, rates or {}),
                recipe.learning_rate,
                recipe.betas,
                recipe.weight_decay,
            )
            # What is cut needs no wrapper but that of the precision.
            route.players[name] = accelerator.prepare_model(module, evaluation_mode=bool(sharded))
            self.optimizers[name] = accelerator.prepare_optimizer(made)
            self.averages[name] = {key: p.detach().clone() for key, p in held.weights.items()}
        if (folder / STATE).exists():
            self._load()

    def run(self, save_every: int = 500, until: int | None = None) -> Iterator[StepRecord]:
        """Train to the end of the recipe, or to step `until`, saving every `save_every` steps and at the end."""
        end = min(self.recipe.steps, self.recipe.steps if until is None else until)
        if self.step < end and self.accelerator.is_main_process:
            self.check_space()
        for batch in self._batches(end):
            rate = self.recipe.learning_rate * self.recipe.rate(self.step)
            cut = list(pieces(batch, self.micro_batch))
            figures: dict[str, float] = {}
            for name in self.route.players:
                for group in self.optimizers[name].param_groups:
                    group["lr"] = rate * group["scale"]
                figures |= self._learn(name, cut)
            self.step += 1
            if self.step % save_every == 0 or self.step == end:
                self.save()
            yield StepRecord(self.step, figures, rate)

    def _batches(self, end: int) -> Iterator[Any]:
        """The batches from here to `end`, each drawn in a thread while earlier ones are learnt from."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(AHEAD, "batches") as pool:
            for step in range(self.step, end):
                while len(waiting) < min(AHEAD, end - step):
                    waiting.append(pool.submit(self.route.batch, step + len(waiting), rank, world))
                yield waiting.popleft().result()

    def _learn(self, name: str, cut: Sequence[Any]) -> dict[str, float]:
        """One step of one player; figures of this process, but the loss is that of the whole batch."""
        accelerator, module, optimizer = self.accelerator, self.route.players[name], self.optimizers[name]
        held = self.masters[name]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=accelerator.device)
        seen: dict[str, list[Tensor]] = {}
        for number, piece in enumerate(cut, 1):
            # Losses are means over their films: weighted so, the pieces of all processes add up to the mean of all.
            weight = length(piece) / self.recipe.batch_size
            # Whole gradients, kept until the last piece, are what cutting is there to avoid.
            last = number == len(cut) or name in self.plans
            with nullcontext() if last else accelerator.no_sync(module):
                outcome = self.route.loss(name, piece, self.step)
                if outcome is None:
                    return {}
                loss, more = outcome
                accelerator.backward(loss * (weight * accelerator.num_processes))
            held.collect()
            total = total + loss.detach().float() * weight
            for key, value in more.items():
                seen.setdefault(key, []).append(value.detach().float())
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total, "sum")
        norm = sharding.whole(accelerator.clip_grad_norm_(list(held.weights.values()), self.recipe.clip))
        learnt = self._finite(name, total, norm)
        if learnt:
            optimizer.step()
            held.publish()
            self._average(name)
        figures = {"loss": total, **{key: torch.stack(values).mean() for key, values in seen.items()}}
        figures |= {} if learnt else {"skipped": torch.ones(())}
        return {f"{name}/{key}": float(value) for key, value in figures.items()}

    def _finite(self, name: str, loss: Tensor, norm: Tensor) -> bool:
        """Whether a step can be taken: not where a kernel in half precision overflowed on its way back, now and then."""
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.skipped = 0
            return True
        self.skipped += 1
        what = "gradient" if torch.isfinite(loss) else "loss"
        if what == "loss" or self.skipped > SKIPS:
            raise TrainingDivergedError(
                f"the {what} of {name} is not finite at step {self.step}; the last good state is in "
                f"{self.folder / STATE}; lower learning_rate and run the same command again"
            )
        bad = [
            key
            for key, weight in self.masters[name].weights.items()
            if weight.grad is not None and not torch.isfinite(sharding.own(weight.grad)).all()
        ]
        where = f"{len(bad)} tensors" + "".join(f", first {key}" for key in bad[:1])
        warnings.warn(
            f"step {self.step} of {name} is left out: its gradient is not finite ({where})", stacklevel=2
        )
        return False

    def state_bytes(self) -> int:
        """Size of the saved state: weights, moving average and two moments in float32, and the buffers."""
        size = 0
        for module in self.route.players.values():
            module = self.accelerator.unwrap_model(module)
            size += sum(16 * p.numel() for p in module.parameters() if p.requires_grad)
            size += sum(b.numel() * b.element_size() for b in module.buffers())
        return size

    def check_space(self) -> None:
        """Refuse to start what could not be saved: the old state stays until the new one is written beside it.

        Raises:
            DiskFullError: the disk has less room than that.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = self.folder / STATE
        needed = 2 * self.state_bytes() - (stored.stat().st_size if stored.exists() else 0)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DiskFullError(
                f"{self.folder}: the training state needs {needed / 1e9:.2f} GB, found {free / 1e9:.2f} GB free; "
                "free some and run the same command again, or choose another --out"
            )

    def averaged(self, player: str) -> dict[str, Tensor]:
        """The moving average of a player's trainable parameters, by name; of another length where one was asked for.

        Raises:
            UserError: no average of that length can be made.
        """
        if self.averaging.length is None:
            return self.averages[player]
        return averages.of_length(self.folder, player, self.averaging.length, self.recipe.ema, self.step)

    def leave(self, player: str, module: nn.Module) -> None:
        """End here: float32 weights for the players again, and the moving average of one of them in `module`.

        Of a module that was cut, the main process has it whole again, the others do not.
        """
        self.finish()
        module.eval()
        averaged = self.averaged(player)
        if player in self.plans:
            sharding.assemble(module, self.plans[player], averaged, self.accelerator.is_main_process)
            return
        for name, p in module.named_parameters():
            if name in averaged:
                p.data.copy_(averaged[name])

    @contextmanager
    def swapped(self, player: str) -> Iterator[None]:
        """The player with its moving average in place of its weights and nothing dropped, for samples and validation."""
        held = self.masters[player]
        kept = {name: weight.detach().clone() for name, weight in held.weights.items()}
        dropping = [m for m in held.module.modules() if isinstance(m, nn.Dropout) and m.training]
        self._write(player, self.averages[player])
        try:
            for layer in dropping:
                layer.eval()
            yield
        finally:
            for layer in dropping:
                layer.train()
            self._write(player, kept)

    def _write(self, player: str, values: Mapping[str, Tensor]) -> None:
        self.masters[player].write(values)
        if player in self.plans:
            sharding.settle(self.route.players[player])

    def finish(self) -> None:
        """Give the players float32 weights again, where they learnt with others; nothing is trained after that."""
        for held in self.masters.values():
            held.restore()

    def save(self) -> None:
        """Write the state in whole tensors; every process calls, the main one writes."""
        tensors: dict[str, Tensor] = {}
        for player, module in self.route.players.items():
            module = self.accelerator.unwrap_model(module)
            for name, p in self.masters[player].weights.items():
                own = {"weight": p.detach(), "average": self.averages[player][name]}
                own |= moments(self.optimizers[player], p)
                tensors |= {f"{player}/{key}/{name}": value for key, value in own.items()}
            # Buffers move too: the singular vectors of a spectral norm are part of where a run stands.
            tensors |= {f"{player}/buffer/{name}": value for name, value in module.named_buffers()}
        folder = self.folder if self.accelerator.is_main_process else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        note = {"step": str(self.step), "identity": json.dumps(self.identity, sort_keys=True)}
        tensor_files.write(folder and folder / STATE, tensors, note)
        if self.averaging.keep:
            averages.keep(folder, self.step, self.averages)

    def _load(self) -> None:
        device = self.accelerator.device
        place = "cpu" if device.type == "cpu" else str(device)  # one of several processes is on "cpu:0"
        with safe_open(self.folder / STATE, "pt", device=place) as state:
            note = state.metadata()
            found = json.loads(note["identity"])
            if changed := differences(found, json.loads(json.dumps(self.identity))):
                raise OutputFolderError(
                    f"{self.folder} holds a run with other settings ({', '.join(changed)}); "
                    "choose another --out, or the settings it was started with"
                )
            self.step = int(note["step"])
            keys = set(state.keys())
            for player, module in self.route.players.items():
                module = self.accelerator.unwrap_model(module)
                for name, p in self.masters[player].weights.items():
                    for kind, held in (("weight", p.detach()), ("average", self.averages[player][name])):
                        sharding.own(held).copy_(sharding.read(state, f"{player}/{kind}/{name}", p))
                    kept = {kind: f"{player}/{kind}/{name}" for kind in MOMENTS}
                    found = {kind: sharding.read(state, key, p) for kind, key in kept.items() if key in keys}
                    set_moments(self.optimizers[player], p, found)
                self.masters[player].publish()
                for name, value in module.named_buffers():
                    if (stored := f"{player}/buffer/{name}") in keys:
                        value.copy_(state.get_tensor(stored))

    @torch.no_grad()
    def _average(self, player: str) -> None:
        decay = averages.decay(self.recipe.ema, self.step)
        weights = [p.detach() for p in self.masters[player].weights.values()]
        torch._foreach_lerp_(list(self.averages[player].values()), weights, 1 - decay)


def _groups(weights: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The weights by their share of the learning rate; the longest fitting start of a name decides."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in weights.items():
        fitting = [start for start in rates if name.startswith(start)]
        groups.setdefault(rates[max(fitting, key=len)] if fitting else 1.0, []).append(p)
    return [{"params": members, "scale": scale} for scale, members in groups.items()]


def _check_processes(batch_size: int, world: int, half: bool) -> None:
    if half and world > 1:
        raise UserError(
            f"--precision bfloat16-weights: for one process, found {world}; gradients are exchanged in float32, "
            "so give --precision bfloat16"
        )
    if (world - 1) * math.ceil(batch_size / world) >= batch_size:
        raise UserError(
            f"batch_size {batch_size} leaves some of {world} processes without a film; "
            f"give --set training.batch_size={world * math.ceil(batch_size / world)} or start fewer processes"
        )
