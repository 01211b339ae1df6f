"""A network read at several depths: pooled feature maps, standardised, under one linear head.

Every map of stride 4 or more (timm's `features_only`) gives the means of its four quarters, so that where a finding lies is not
lost, and the standard deviation over the map. The deep maps say what is there, the shallow ones keep edges and texture that a
network trained on ImageNet forgets. Features (B, d) are (pooled - mean) / deviation.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_STRIDE = 4
QUARTERS = 2


class MultiDepth(nn.Module):
    """Feature maps of a timm network, pooled and standardised, and one logit a finding.

    Arguments: `backbone` made with `features_only=True`; `findings` their number. Mean and deviation are 0 and 1, and the
    weights of the head 0, until they are fitted.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, findings: int) -> None:
        super().__init__()
        self.backbone = backbone
        info = backbone.feature_info
        self.kept = [i for i, stride in enumerate(info.reduction()) if stride >= LEAST_STRIDE]
        channels = info.channels()
        width = sum(channels[i] for i in self.kept) * (QUARTERS**2 + 1)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.head = nn.Linear(width, findings)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def pooled(self, images: Tensor) -> Tensor:
        """The pooled maps (B, d), before they are standardised."""
        maps = self.backbone(images)
        parts = []
        for values in (maps[i] for i in self.kept):
            parts += [F.adaptive_avg_pool2d(values, QUARTERS).flatten(1), values.std((2, 3), correction=0)]
        return torch.cat(parts, 1)

    def forward_features(self, images: Tensor) -> Tensor:
        """The standardised features (B, d)."""
        return (self.pooled(images) - self.mean) / self.deviation

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, findings), or the features as they are."""
        return features if pre_logits else cast(Tensor, self.head(features))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))
