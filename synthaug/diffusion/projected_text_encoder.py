"""Another text encoder in CLIP's place: any Hugging Face encoder, its states projected into the U-Net's text space.

    c = W norm(h) + b,      h (B, tokens, width of the encoder) -> c (B, tokens, width of the cross-attention)

Chambon et al. 2022 (arXiv:2210.04133) put encoders that were trained on medical text in CLIP's place in this way.
The projection starts as the ridge regression of CLIP's states on the encoder's own, place by place, on text alone; it
may then be trained with the diffusion loss.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ProjectedTextConfig(PretrainedConfig):
    """`encoder`: the encoder's own configuration; `hidden_size`: width of what comes out; `length`: of a text."""

    model_type = "synthaug_projected_text_encoder"

    def __init__(
        self, encoder: dict[str, Any] | None = None, hidden_size: int = 768, length: int = 77, **more: Any
    ):
        super().__init__(**more)
        self.encoder = dict(encoder or {})
        self.hidden_size = hidden_size
        self.max_position_embeddings = length
        self.vocab_size = int(self.encoder.get("vocab_size", 0))


class ProjectedTextEncoder(PreTrainedModel):
    """An encoder and its projection, called as a `CLIPTextModel` is; padding is masked within the encoder."""

    config_class = ProjectedTextConfig
    base_model_prefix = "projected"

    def __init__(self, config: ProjectedTextConfig, encoder: nn.Module | None = None):
        super().__init__(config)
        values = {key: value for key, value in config.encoder.items() if key not in ("model_type", "dtype")}
        self.inner = AutoConfig.for_model(config.encoder["model_type"], **values)
        self.encoder = AutoModel.from_config(self.inner) if encoder is None else encoder
        self.norm = nn.LayerNorm(self.inner.hidden_size, elementwise_affine=False)
        self.projection = nn.Linear(self.inner.hidden_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the encoder's folder and the regression."""

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's own."""
        return self.encoder.get_input_embeddings()

    def normalised(self, tokens: Tensor) -> Tensor:
        """What the projection reads: (B, length) token ids -> (B, length, width of the encoder)."""
        padding = self.inner.pad_token_id
        mask = torch.ones_like(tokens) if padding is None else (tokens != padding).long()
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return self.norm(hidden)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """Token ids (B, length) -> states (B, length, hidden_size); the mask is made of the padding."""
        return BaseModelOutput(last_hidden_state=self.projection(self.normalised(input_ids)))


@torch.no_grad()
def fit_projection(
    encoder: ProjectedTextEncoder,
    tokens: Callable[[list[str]], Tensor],
    target: Callable[[list[str]], Tensor],
    corpus: Iterable[str],
    ridge: float = 1e-3,
    batch: int = 64,
) -> float:
    """Set the projection to the ridge regression of the target's states on the encoder's, place by place.

    Args:
        encoder: its `projection` is replaced.
        tokens: texts -> the encoder's token ids (B, length).
        target: texts -> states of the text encoder that is replaced, (B, length, hidden_size).
        corpus: texts; no film is needed.
        ridge: penalty on the weights, as a share of the mean square of the inputs.

    Returns:
        Share of the target's variance that the projection explains on the corpus (R squared).
    """
    texts = list(dict.fromkeys(corpus))
    width, out = encoder.projection.in_features, encoder.projection.out_features
    xx = torch.zeros(width + 1, width + 1, dtype=torch.double)
    xy = torch.zeros(width + 1, out, dtype=torch.double)
    yy, count = torch.zeros((), dtype=torch.double), 0
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        x = encoder.normalised(tokens(part)).double().flatten(0, 1).cpu()
        y = target(part).double().flatten(0, 1).cpu()
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        xx += x.T @ x
        xy += x.T @ y
        yy += y.square().sum()
        count += len(x)
    penalty = ridge * xx.diagonal()[:-1].mean() * torch.eye(width + 1, dtype=torch.double)
    penalty[-1, -1] = 0.0  # the offset is free
    # Normalised states add up to zero, so without a penalty the matrix is singular: the pseudo-inverse.
    solved = torch.linalg.pinv(xx + penalty, hermitian=True, rtol=1e-10) @ xy
    encoder.projection.weight.copy_(solved[:-1].T)
    encoder.projection.bias.copy_(solved[-1])
    residual = yy - 2 * (solved * xy).sum() + (solved * (xx @ solved)).sum()
    spread = yy - (xy[-1] ** 2).sum() / count  # about the mean: the last row of x is ones
    return float(1 - residual / spread)
