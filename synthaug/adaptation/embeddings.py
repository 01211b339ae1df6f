"""Text embeddings of a frozen encoder on disk: each text that came with the films is read once, whatever is started again.

One safetensors file beside the latents, named by a digest of the tokens and of the encoder's weights, so it can never be
stale. Embeddings are float16 `(N, length, width)`, written batch by batch under a temporary name and mapped when they are read,
so that 500,000 reports need 59 GB of disk at CLIP's 77 x 768 and no memory. Captions that are drawn from labels are not
in it: they are a few thousand, and held in memory where they are drawn.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from synthaug.adaptation.latents import half_file

NAME = "embeddings"


class TextEmbeddings(Mapping[str, Tensor]):
    """Text -> its embedding, float32 (length, width), read from `stored`, (N, length, width), in the order of `texts`."""

    def __init__(self, texts: Sequence[str], stored: Tensor):
        self._rows = {text: row for row, text in enumerate(texts)}
        self._stored = stored

    def __getitem__(self, text: str) -> Tensor:
        return self._stored[self._rows[text]].float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def cache(
    folder: Path,
    texts: Sequence[str],
    tokens: Callable[[list[str]], Tensor],
    encode: Callable[[Tensor], Tensor],
    encoder_digest: str,
    batch_size: int = 32,
) -> Mapping[str, Tensor]:
    """Embeddings of `texts`, read from the cache or computed into it.

    Args:
        folder: where caches live.
        texts: each once.
        tokens: texts -> token ids (B, length).
        encode: token ids (B, length) -> embeddings (B, length, width).
        encoder_digest: names the encoder's weights.

    Raises:
        DiskFullError: the disk has no room for them.
    """
    batches = [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    sha = hashlib.sha256(encoder_digest.encode())
    for batch in batches:
        sha.update(tokens(batch).numpy().tobytes())
    path = folder / f"texts-{sha.hexdigest()[:16]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        held: np.memmap | None = None
        done = 0
        for batch in batches:
            with torch.no_grad():
                encoded = encode(tokens(batch)).half()
            if held is None:
                held = half_file(partial, NAME, (len(texts), *encoded.shape[1:]), "give fewer texts")
            held[done : done + len(batch)] = encoded.numpy()
            done += len(batch)
        if held is not None:
            held.flush()
        os.replace(partial, path)
    with safe_open(path, "pt") as stored:
        return TextEmbeddings(texts, stored.get_tensor(NAME))


def reader(tokenizer: PreTrainedTokenizerBase, length: int) -> Callable[[list[str]], Tensor]:
    """Texts -> token ids (B, length), padded and cut."""

    def read(texts: list[str]) -> Tensor:
        return tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    return read
