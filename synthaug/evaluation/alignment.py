"""Image-text alignment: does a CLIP-like model find the prompt in the film (Hessel et al., arXiv:2104.08718)?

Conventions: embeddings are unit vectors; alignment is the cosine of a film and its own prompt; its floor is the cosine with
the other prompts of the run, so that what matters is the distance between the two. A model of photographs sees little in
radiographs: the figure is worth what the model knows. Loaded from a folder: safetensors, no remote code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError

from synthaug.diffusion.components import quiet
from synthaug.diffusion.device import choose_device
from synthaug.errors import DataError
from synthaug.evaluation.features import weights_digest
from synthaug.evaluation.intervals import mean_interval, proportion
from synthaug.evaluation.results import Metric, missing, protocol_id

LEAST = 8


@dataclass(frozen=True, slots=True)
class TextImageModel:
    """A model with two encoders, its tokenizer, and how its images are prepared."""

    model: Any
    tokenizer: Any
    size: int
    mean: np.ndarray
    std: np.ndarray
    name: str
    digest: str

    @property
    def resize(self) -> str:
        return f"{self.size} crop"

    @torch.no_grad()
    def embed_images(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Unit vectors (n, d) of uint8 images (n, 1, size, size)."""
        out = []
        place = next(self.model.parameters()).device
        centre, scale = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (self.mean, self.std))
        for start in range(0, len(images), batch_size):
            pixels = (
                torch.from_numpy(images[start : start + batch_size].copy()).float().expand(-1, 3, -1, -1)
                / 255
            )
            out.append(
                _unit(self.model.get_image_features(pixel_values=((pixels - centre) / scale).to(place)))
            )
        return np.concatenate(out)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
        """Unit vectors (n, d) of texts, cut where the model's length ends."""
        out = []
        place = next(self.model.parameters()).device
        length = self.model.config.text_config.max_position_embeddings
        for start in range(0, len(texts), batch_size):
            tokens = self.tokenizer(
                texts[start : start + batch_size],
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            mask = tokens["attention_mask"].to(place)
            out.append(
                _unit(
                    self.model.get_text_features(input_ids=tokens["input_ids"].to(place), attention_mask=mask)
                )
            )
        return np.concatenate(out)


def _unit(found: Any) -> np.ndarray:
    rows = found if isinstance(found, torch.Tensor) else found.pooler_output
    return cast(np.ndarray, torch.nn.functional.normalize(rows.float(), dim=1).cpu().numpy())


def load_text_image_model(folder: str | Path, device: str = "auto") -> TextImageModel:
    """Open a transformers folder with image and text features, a tokenizer and `preprocessor_config.json`.

    Raises `DataError` where the folder lacks one of them, asks for remote code, or has no safetensors.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_bytes())
        seen = json.loads((folder / "preprocessor_config.json").read_bytes())
        side = seen["crop_size"] if "crop_size" in seen else seen["size"]
        size = int(side["height"] if isinstance(side, dict) else side)
        mean, std = np.array(seen["image_mean"], float), np.array(seen["image_std"], float)
        if "auto_map" in config:
            raise DataError(f"{folder / 'config.json'}: asks for remote code (auto_map), which is not run")
        with quiet():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"--text-model {folder}: not a CLIP-like folder ({str(error).splitlines()[0]})"
        ) from None
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise DataError(f"--text-model {folder}: {type(model).__name__} has no image and text features")
    if mean.shape != (3,) or std.shape != (3,):
        raise DataError(f"{folder / 'preprocessor_config.json'}: expected three means and three deviations")
    model = model.eval().requires_grad_(False).to(choose_device(device))
    digest = weights_digest(model, [type(model).__name__, size, mean.tolist(), std.tolist()])
    return TextImageModel(model, tokenizer, size, mean, std, folder.name, digest)


def alignment(source: TextImageModel, data: Any, clusters: list[str], arm: str = "synthetic") -> list[Metric]:
    """Mean cosine of films and their prompts, and how often a film is nearest to its own prompt among those of the run."""
    names = ("image-text alignment", "image-text choice")
    facts: dict[str, Any] = {"arm": arm, "extractor": source.name, "resize": source.resize}
    told = [i for i, record in enumerate(data.records) if record.prompt]
    prompts = sorted({data.records[i].prompt for i in told})
    if len(told) < LEAST:
        reason = f"{len(told)} films with a prompt; {LEAST} are needed"
        return [missing(name, reason, **facts) for name in names]
    images = source.embed_images(data.subset(told).images_array(source.size))
    cosines = (images @ source.embed_texts(prompts).T).astype(np.float64)
    own = np.array([prompts.index(data.records[i].prompt) for i in told])
    groups = [clusters[i] for i in told]
    value = mean_interval(cosines[np.arange(len(own)), own], groups)
    protocol = [protocol_id(name, 1, source.digest, source.resize, prompts) for name in names]
    facts |= {"n": len(told)}
    others = (cosines.sum(1) - cosines[np.arange(len(own)), own]).mean() / max(1, len(prompts) - 1)
    floor = float(others) if len(prompts) > 1 else None
    out = [
        Metric(
            name=names[0],
            value=value.value,
            low=value.low,
            high=value.high,
            floor=floor,
            protocol=protocol[0],
            note="floor: the cosine with the other prompts",
            **facts,
        )
    ]
    if len(prompts) == 1:
        return [*out, missing(names[1], "one prompt in all: nothing to choose between", **facts)]
    hit = (cosines.argmax(1) == own).astype(float)
    low, high = proportion(hit, groups)
    out.append(
        Metric(
            name=names[1],
            value=float(hit.mean()),
            low=low,
            high=high,
            floor=1 / len(prompts),
            protocol=protocol[1],
            note=f"floor: chance among {len(prompts)} prompts",
            **facts,
        )
    )
    return out
