"""Features of films: extractors by name, their digests, and a cache on disk that is keyed by content.

Conventions: an extractor turns uint8 images (B, 1, s, s) into float32 (B, d), fp32 arithmetic on any device. Its digest
covers weights and preprocessing, so features of equal digest, resize and image are equal up to the rounding of the batch.

    embedded    pooled features of the detector inside the package, or of any detector folder
    imagenet    pooled features of EfficientNet-Lite0, trained on ImageNet (weights from an installed package)
    pixels      64 x 64 grey values, mean taken off, unit length: a cosine of two is the correlation of the films
    a folder    of a transformers DINOv2 model (RadDINO is one): its class token
    a callable  through `callable_extractor`
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from synthaug import imagenet
from synthaug.detection.detector import SCHEMA as DETECTOR_SCHEMA
from synthaug.detection.detector import Detector, load_detector
from synthaug.detection.films import Fit
from synthaug.detection.predict import extract
from synthaug.diffusion.components import quiet
from synthaug.diffusion.device import choose_device
from synthaug.errors import DataError, UnknownNameError
from synthaug.shards import atomic_write

Compute = Callable[[np.ndarray], np.ndarray]
CHUNK = 512  # films decoded, extracted and cached at a time
THUMBNAIL = 64
NAMES = ("embedded", "imagenet", "pixels")


@dataclass(frozen=True, slots=True)
class Extractor:
    """Images in, features out.

    Attributes: `name` for tables; `digest` of weights and preprocessing, None where unknown (nothing is cached then);
    `size` and `fit` of the images it reads; `compute` uint8 (B, 1, size, size) -> float32 (B, d).
    """

    name: str
    digest: str | None
    size: int
    fit: Fit
    compute: Compute

    @property
    def resize(self) -> str:
        """The resize, as metrics carry it: "224 crop"."""
        return f"{self.size} {self.fit}"


@dataclass(frozen=True, slots=True)
class Features:
    """`values` float32 (n, d), `films` the SHA-256 of each image as it was read, and where the values come from."""

    values: np.ndarray
    films: tuple[str, ...]
    extractor: str
    digest: str | None
    resize: str

    def __len__(self) -> int:
        return len(self.values)

    def subset(self, indices: np.ndarray) -> "Features":
        """The chosen films, by index or mask, in the order given."""
        chosen = np.arange(len(self))[indices]
        films = tuple(self.films[i] for i in chosen)
        return Features(self.values[chosen], films, self.extractor, self.digest, self.resize)


def extractor(source: str | Path | Detector | Extractor, device: str = "auto") -> Extractor:
    """The extractor of that name or folder.

    Raises `UnknownNameError` for a name that is no folder either, `DataError` for a folder of another kind,
    `NotInstalledError` where the ImageNet weights are not installed.
    """
    if isinstance(source, Extractor):
        return source
    if isinstance(source, Detector):
        return detector_extractor(source, source.config.arch)
    if str(source) == "embedded":
        return detector_extractor(load_detector("embedded", device), "embedded")
    if str(source) == "imagenet":
        return imagenet_extractor(device)
    if str(source) == "pixels":
        return Extractor("pixels", f"pixels-{THUMBNAIL}", THUMBNAIL, "squash", thumbnails)
    return _folder_extractor(Path(source), device)


def detector_extractor(detector: Detector, name: str) -> Extractor:
    """The features in front of the findings head of a detector."""
    config = detector.config
    facts = [config.arch, config.image_size, config.fit, config.normalisation, config.mean, config.std]
    return Extractor(
        name,
        weights_digest(detector.network, facts),
        config.image_size,
        config.fit,
        lambda images: extract(detector, images),
    )


def imagenet_extractor(device: str = "auto") -> Extractor:
    """EfficientNet-Lite0 at 224 px, grey in all three channels, in [-1, 1] as it was trained."""
    import timm

    network = timm.create_model(imagenet.ARCH, pretrained=False, num_classes=0)
    weights = imagenet.state_dict()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    mean, std = np.full(3, 0.5), np.full(3, 0.5)
    compute = _network_compute(network, lambda model, pixels: model(pixels), mean, std, device)
    return Extractor("imagenet", weights_digest(network, [imagenet.ARCH, 224, "crop"]), 224, "crop", compute)


def callable_extractor(
    function: Compute, name: str, size: int, fit: Fit = "crop", digest: str | None = None
) -> Extractor:
    """Any function of images (B, 1, size, size) uint8 -> (B, d); cached only where `digest` names its weights."""
    return Extractor(name, digest, size, fit, function)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Unit vectors (B, s * s) of films (B, 1, s, s), the film's mean taken off; a blank film gives zeros."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def weights_digest(network: torch.nn.Module, facts: Sequence[Any]) -> str:
    """SHA-256 over the weights by name and the facts of the preprocessing."""
    total = hashlib.sha256(json.dumps(list(facts)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _network_compute(
    network: torch.nn.Module,
    call: Callable[[Any, torch.Tensor], torch.Tensor],
    mean: np.ndarray,
    std: np.ndarray,
    device: str,
) -> Compute:
    place = choose_device(device)
    model = network.eval().requires_grad_(False).to(place)
    centre, scale = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))

    @torch.no_grad()
    def compute(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).float().expand(-1, 3, -1, -1) / 255
        return cast(np.ndarray, call(model, ((pixels - centre) / scale).to(place)).float().cpu().numpy())

    return compute


def _folder_extractor(folder: Path, device: str) -> Extractor:
    config = folder / "config.json"
    if not folder.is_dir():
        raise UnknownNameError("extractor", str(folder), NAMES)
    try:
        facts = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{config}: not the configuration of an extractor ({error})") from None
    if not isinstance(facts, dict):
        raise DataError(f"{config}: found {type(facts).__name__}, expected a JSON object")
    if facts.get("schema") == DETECTOR_SCHEMA:
        return detector_extractor(load_detector(folder, device), folder.name)
    if facts.get("model_type") != "dinov2":
        raise DataError(
            f"{config}: model_type {facts.get('model_type')!r}; a folder extractor is a detector or a DINOv2 model "
            "(RadDINO); others go through synthaug.evaluation.features.callable_extractor"
        )
    return _dinov2_extractor(folder, device)


def _dinov2_extractor(folder: Path, device: str) -> Extractor:
    """A transformers DINOv2 folder with safetensors and `preprocessor_config.json`: the class token after the last norm."""
    from transformers import Dinov2Model

    path = folder / "preprocessor_config.json"
    try:
        seen = json.loads(path.read_bytes())
        side = seen["crop_size"]
        size = int(side["height"] if isinstance(side, dict) else side)
        mean, std = np.array(seen["image_mean"], float), np.array(seen["image_std"], float)
        with quiet():
            network = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a DINOv2 folder with safetensors and {path.name} ({error})") from None
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise DataError(
            f"{path}: image_mean and image_std must be three numbers each, found {mean} and {std}"
        )
    digest = weights_digest(network, ["dinov2", size, mean.tolist(), std.tolist()])
    compute = _network_compute(network, lambda model, pixels: model(pixels).pooler_output, mean, std, device)
    return Extractor(folder.name, digest, size, "crop", compute)


def features(
    source: Extractor,
    data: Any,
    cache: str | Path | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of every film of a data set, chunk by chunk: of `CHUNK` films those already in `cache` are read.

    Arguments: `data` a data set (`images_array`, `subset`) or uint8 images (n, 1, H, W); `cache` a folder, made if absent.
    Raises `DataError` where there is no film, the extractor does not return one row a film, or the cache holds features of
    another extractor.
    """
    if not len(data):
        raise DataError("no film to take features of; `synthaug data DIR` shows what a folder holds")
    values: list[np.ndarray] = []
    films: list[str] = []
    for start in range(0, len(data), CHUNK):
        images = _images(data, slice(start, start + CHUNK), source)
        digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
        values.append(_cached(source, images, digests, cache, batch_size))
        films += digests
        if progress is not None:
            progress(min(start + CHUNK, len(data)), len(data))
    return Features(np.concatenate(values), tuple(films), source.name, source.digest, source.resize)


def _images(data: Any, part: slice, source: Extractor) -> np.ndarray:
    from synthaug.images import resize

    if isinstance(data, np.ndarray):
        block = data[part]
        if block.shape[-2:] == (source.size, source.size):
            return block
        return np.stack([resize(image[0], source.size, source.fit)[None] for image in block])
    chosen = np.arange(len(data))[part]
    return cast(np.ndarray, data.subset(chosen).images_array(source.size, source.fit))


def _cached(
    source: Extractor, images: np.ndarray, films: tuple[str, ...], cache: str | Path | None, batch_size: int
) -> np.ndarray:
    path = None
    if cache is not None and source.digest is not None:
        key = hashlib.sha256("\n".join([source.digest, source.resize, *films]).encode()).hexdigest()[:24]
        path = Path(cache) / f"features-{key}.safetensors"
        if path.exists():
            return load_features(path, source).values
    batches = [
        np.asarray(source.compute(images[i : i + batch_size].copy()), np.float32)
        for i in range(0, len(images), batch_size)
    ]
    values = np.concatenate(batches)
    if values.ndim != 2 or len(values) != len(images):
        raise DataError(
            f"extractor {source.name}: found features {values.shape} of {len(images)} films, expected (n, d)"
        )
    if not np.isfinite(values).all():
        raise DataError(f"extractor {source.name}: a feature is not finite")
    if path is not None:
        save_features(path, Features(values, films, source.name, source.digest, source.resize))
    return values


def save_features(path: str | Path, held: Features) -> None:
    """Write features as one safetensors file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {"extractor": held.extractor, "digest": held.digest or "", "resize": held.resize}
    data = to_safetensors(
        {"features": np.ascontiguousarray(held.values)}, note | {"films": " ".join(held.films)}
    )
    atomic_write(path, data)


def load_features(path: str | Path, source: Extractor | None = None) -> Features:
    """Read features; with `source` only if they are that extractor's.

    Raises `DataError` where the file is damaged, or made by another extractor or resize.
    """
    path = Path(path)
    try:
        with safe_open(path, "np") as file:
            note, values = file.metadata() or {}, file.get_tensor("features")
        films = tuple(note["films"].split())
        held = Features(values, films, note["extractor"], note["digest"] or None, note["resize"])
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{path}: not a file of features ({error}); delete it to have it made anew") from None
    if len(values) != len(films):
        raise DataError(f"{path}: {len(values)} rows for {len(films)} films; delete it to have it made anew")
    if source is not None and (held.digest, held.resize) != (source.digest, source.resize):
        raise DataError(
            f"{path}: features of {held.extractor} ({(held.digest or 'no digest')[:12]}, {held.resize}), expected "
            f"{source.name} ({(source.digest or 'no digest')[:12]}, {source.resize}); choose another --cache"
        )
    return held
