"""The detector: any timm network with one logit a finding, and the folder that holds it.

Conventions: images are uint8 (B, 1, H, W), or float in [0, 1] of the same shape; logits are (B, findings) in the order of
`config.findings`; a folder is `config.json` + `model.safetensors` (matrices in fp16, vectors in fp32).
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from synthaug import imagenet
from synthaug.detection.depths import MultiDepth
from synthaug.detection.films import Fit
from synthaug.diffusion.device import choose_device, choose_dtype
from synthaug.errors import DetectorError, NotInstalledError, UnknownNameError
from synthaug.shards import atomic_write

SCHEMA = "synthaug.detector/1"
EMBEDDED = Path(__file__).parent.parent / "assets" / "embedded-detector"
Start = Literal["random", "imagenet", "download"]
Head = Literal["network", "linear"]


class DetectorConfig(BaseModel):
    """What a detector's `config.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: str = Field(default=SCHEMA, alias="schema")
    arch: str
    head: Head = "network"
    findings: tuple[str, ...]
    image_size: int = Field(gt=0)
    fit: Fit = "crop"
    normalisation: Literal["film", "fixed"] = "fixed"
    mean: float = 0.5
    std: float = Field(default=0.25, gt=0)
    thresholds: dict[str, float] = {}
    temperature: float = Field(default=1.0, gt=0)
    start: str = "random"
    training: dict[str, Any] = {}

    def threshold(self, finding: str) -> float:
        """The probability from which `finding` counts as present (0.5 where validation could not choose one)."""
        return self.thresholds.get(finding, 0.5)


class Detector(nn.Module):
    """A timm network behind a normalisation: uint8 radiographs in, one logit a finding out."""

    def __init__(self, config: DetectorConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network

    @property
    def findings(self) -> tuple[str, ...]:
        return self.config.findings

    def normalise(self, images: Tensor) -> Tensor:
        """Grey values to network input: by fixed mean and deviation, or by each film's own ("film")."""
        floats = images.float() / 255 if images.dtype == torch.uint8 else images
        if self.config.normalisation == "fixed":
            return (floats - self.config.mean) / self.config.std
        deviation, mean = torch.std_mean(floats, dim=(1, 2, 3), keepdim=True)
        return (floats - mean) / (deviation + 1e-3)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.normalise(images)))

    def features(self, images: Tensor) -> Tensor:
        """The pooled features (B, d) in front of the findings head."""
        network = cast(Any, self.network)
        return cast(
            Tensor, network.forward_head(network.forward_features(self.normalise(images)), pre_logits=True)
        )

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors`, then `config.json`; both appear whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: on_disk(v) for k, v in self.network.state_dict().items()}
        atomic_write(folder / "model.safetensors", to_safetensors(state))
        text = json.dumps(self.config.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True)
        atomic_write(folder / "config.json", text.encode() + b"\n")


def on_disk(tensor: Tensor) -> Tensor:
    """Norms and biases are small and reach beyond fp16's range; only matrices are halved."""
    return (tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor).cpu().contiguous()


def build_detector(
    config: DetectorConfig, start: Start = "random", seed: int | None = None, dropout: float = 0.0
) -> Detector:
    """A new detector of `config.arch`.

    Arguments: `start` is "random", "imagenet" (weights from an installed package, no network) or "download" (timm's own,
    over the network); where those are not to be had, the start is random, with a warning, and `config.start` says so.
    `seed` fixes the random weights, whatever ran before. Raises `UnknownNameError` for an architecture timm lacks.
    """
    import timm

    if not timm.is_model(config.arch):
        raise UnknownNameError("architecture", config.arch, timm.list_models())
    options: dict[str, Any] = {"in_chans": 1}
    if config.head == "linear":
        options |= {"features_only": True}
    else:
        options |= {"num_classes": len(config.findings), "drop_rate": dropout}
    pretrained_cfg = timm.get_pretrained_cfg(config.arch)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        options["img_size"] = config.image_size
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = timm.create_model(config.arch, pretrained=False, **options)
        done: str = "random"
        if start != "random":
            try:
                if start == "imagenet":
                    done = _load_imagenet(network, config.arch)
                else:
                    network = timm.create_model(config.arch, pretrained=True, **options)
                    done = f"timm {config.arch}"
            except (DetectorError, NotInstalledError, OSError, RuntimeError) as fault:
                warnings.warn(
                    f"{start} weights of {config.arch}: {fault}; starting from random weights", stacklevel=2
                )
                done = f"random ({start} weights were not to be had)"
    if config.head == "linear":
        network = MultiDepth(network, len(config.findings))
    return Detector(config.model_copy(update={"start": done}), network)


def _load_imagenet(network: nn.Module, arch: str) -> str:
    """Copy ImageNet weights into a grey network: the three colour filters are summed, the findings head stays random."""
    if arch not in imagenet.PACKAGES:
        raise DetectorError(
            f"only {', '.join(imagenet.PACKAGES)} have an ImageNet package; start=download asks timm for others"
        )
    weights = imagenet.state_dict(arch)
    weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(1, keepdim=True)
    own = network.state_dict()
    kept = {k: v for k, v in weights.items() if k in own and not k.startswith("classifier.")}
    network.load_state_dict(kept, strict=False)
    return f"imagenet ({imagenet.PACKAGES[arch]})"


def load_detector(source: str | Path = "embedded", device: str = "cpu") -> Detector:
    """Open a detector folder, or the one inside the package ("embedded"), ready for prediction.

    Raises `DetectorError` naming the file that is missing, is not safetensors, or does not fit the architecture.
    """
    folder = EMBEDDED if str(source) == "embedded" else Path(source)
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    for path in (config_path, weights_path):
        if not path.is_file():
            hint = "`synthaug train --data DIR --out DET` makes a detector folder"
            raise DetectorError(f"{path}: not found; a detector is config.json + model.safetensors ({hint})")
    try:
        config = DetectorConfig.model_validate_json(config_path.read_bytes())
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DetectorError(f"{config_path}: {where}: {first['msg']}") from None
    try:
        state = load_file(weights_path)
    except (SafetensorError, OSError) as fault:
        raise DetectorError(f"{weights_path}: not readable as safetensors ({fault})") from None
    detector = Detector(config, build_detector(config).network)
    try:
        detector.network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except RuntimeError as fault:
        lines = str(fault).splitlines()
        raise DetectorError(f"{weights_path}: does not fit {config.arch}: {' '.join(lines[:2])}") from None
    return detector.eval().to(choose_device(device))


def digest_of(detector: Detector) -> str:
    """SHA-256 (hex) of a detector's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def uses_bf16(network: nn.Module, device: torch.device) -> bool:
    """Whether training is quicker in bf16: where it is native; on a CPU not with depthwise convolutions, which it slows down."""
    if choose_dtype(device) is not torch.bfloat16:
        return False
    return device.type != "cpu" or not any(
        isinstance(part, nn.Conv2d) and part.groups > 1 for part in network.modules()
    )
