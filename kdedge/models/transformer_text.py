"""A small encoder-only transformer that classifies texts (Vaswani et al. 2017, "Attention Is All You Need", section 3).

Layers normalise before they attend (pre-norm; Xiong et al. 2020), which trains without a long warm-up; GELU between the two linear layers;
the mean over the tokens that are no padding goes to one linear layer. Attention is written as plain products and a softmax, and the mask is
added to the scores, so that batch and length stay dynamic in an exported graph and a dialect sees the matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdedge.models.ranges import check_ranges

# Added to the scores of padding. exp(-1e4) is 0 in every float type, and -1e4 itself still fits into float16.
_MASKED = 1e4


class Attention(nn.Module):
    """Multi-head self-attention: [N, L, width] and a bias [N, 1, 1, L] on the scores -> [N, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Each token's mix of the tokens that are no padding."""
        query, key, value = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        attention = (query @ key.transpose(-1, -2) * self.scale + bias).softmax(-1)
        return self.out((attention @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def split(self, x: Tensor) -> Tensor:
        """[N, L, width] -> [N, heads, L, width / heads]."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each after a normalisation and beside a residual."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[N, L, width] -> the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias))
        return x + self.dropout(self.contract(F.gelu(self.expand(self.feed_norm(x)))))  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """The network: int64 ids [N, L] and mask [N, L] (1 for a token, 0 for padding), L at most `max_length` -> logits [N, classes]."""

    def __init__(self, classes: int, vocabulary: int, max_length: int, layers: int, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, expansion, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of a batch of texts; what stands at padding makes no difference to them."""
        x = self.dropout(self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]])
        mask = attention_mask.to(x.dtype)
        bias = ((mask - 1) * _MASKED)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask.unsqueeze(-1)
        mean = (self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.linear(mean)  # type: ignore[no-any-return]


def transformer(
    *,
    classes: int,
    vocabulary: int,
    max_length: int,
    layers: int = 2,
    width: int = 128,
    heads: int = 4,
    expansion: int = 4,
    dropout: float = 0.1,
) -> TextTransformer:
    """`expansion`: how many times wider the layer between the two linear ones is; `dropout` acts in training only.

    Raises:
        ValueError: a number with which there is no network.
    """
    values = {"layers": layers, "width": width, "heads": heads, "expansion": expansion, "dropout": dropout}
    check_ranges("kdedge.models.transformer_text:transformer", values)
    return TextTransformer(classes, vocabulary, max_length, layers, width, heads, expansion, dropout)
