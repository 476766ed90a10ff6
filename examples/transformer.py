"""A transformer block with attention, layer norm and dropout learns to predict the next character; AdamW."""
import pydoc_data.topics

import torch
from torch import nn
from side_by_side import side_by_side


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float = 0.1):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (c // self.heads) ** 0.5
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        weights = self.dropout(scores.masked_fill(~mask, float("-inf")).softmax(-1))
        x = x + self.project((weights @ v).transpose(1, 2).reshape(b, t, c))
        return x + self.dropout(self.mlp(self.norm2(x)))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int, width: int = 64, length: int = 32):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.block, self.norm, self.head = Block(width, 4), nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.block(x)))


def load_text() -> torch.Tensor:
    """A chapter of Python's own reference as character codes, int64 [N]."""
    return torch.tensor([min(ord(ch), 127) for ch in pydoc_data.topics.topics["typesseq"]])


def main(steps: int = 60, batch: int = 16, length: int = 32):
    torch.manual_seed(0)
    text = load_text()
    starts = torch.randint(len(text) - length - 1, (steps, batch))
    windows = text[starts[..., None] + torch.arange(length + 1)]
    run = side_by_side("transformer", LanguageModel(128), lambda p: torch.optim.AdamW(p, lr=3e-3),
                       lambda logits, y: nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()),
                       [(w[:, :-1], w[:, 1:]) for w in windows])
    print(run)
    return run


if __name__ == "__main__":
    main()
