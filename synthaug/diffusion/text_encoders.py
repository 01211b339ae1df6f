"""Opening a Hugging Face text encoder from a folder or the hub: known classes, no remote code, nothing unpickled."""

from pathlib import Path
from typing import Any

import transformers

from synthaug.diffusion.components import any_tokenizer, quiet, read_json
from synthaug.diffusion.projected_text_encoder import ProjectedTextConfig, ProjectedTextEncoder
from synthaug.diffusion.sources import HUB_ID, download_text_encoder
from synthaug.errors import CheckpointError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def open_text_encoder(source: str, width: int, length: int) -> tuple[ProjectedTextEncoder, Any]:
    """The encoder behind a projection to `width`, still random, and its tokenizer.

    Args:
        source: a folder with config.json, weights and tokenizer, or a hub id. The folder `text_encoder` of a
            checkpoint has its tokenizer beside it, and that one is taken.
        width: of the U-Net's cross-attention.
        length: tokens that a text is padded or cut to; less where the encoder has fewer places.

    Raises:
        CheckpointError: something is missing, or it is no encoder that gives one state a token.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(source):
            raise CheckpointError(f"--text-encoder {source}: no such folder; expected a folder or a hub id")
        folder = download_text_encoder(source)
    config = read_json(folder / "config.json")
    if config.get("is_encoder_decoder") or "hidden_size" not in config:
        raise CheckpointError(
            f"{folder / 'config.json'}: {config.get('model_type', 'this')!r} is no plain text encoder; expected one "
            "with hidden_size, such as BERT, RoBERTa or CLIPTextModel"
        )
    if not any((folder / name).exists() for name in WEIGHTS):
        raise CheckpointError(f"{folder}: no weights; expected {' or '.join(WEIGHTS)}")
    safe = any((folder / name).exists() for name in WEIGHTS[:2])
    try:
        with quiet():
            model = transformers.AutoModel.from_pretrained(
                folder,
                dtype="float32",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                weights_only=True,
            )
    except Exception as error:  # transformers, torch and safetensors raise each their own
        raise CheckpointError(f"{folder}: cannot be read: {str(error).strip().splitlines()[0]}") from error
    own = (folder / "tokenizer.json", folder / "vocab.txt", folder / "vocab.json")
    tokenizer = any_tokenizer(folder if any(path.exists() for path in own) else folder.parent / "tokenizer")
    places = getattr(model.config, "max_position_embeddings", length)
    kept = min(length, places)
    tokenizer.model_max_length = kept
    shape = ProjectedTextConfig(encoder=model.config.to_dict(), hidden_size=width, length=kept)
    return ProjectedTextEncoder(shape, model.eval()).eval(), tokenizer
