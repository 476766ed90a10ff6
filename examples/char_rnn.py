"""Tell Python code from English prose, a line at a time: a character LSTM written as a loop over cells; RMSprop."""
import argparse
import inspect
import pydoc_data.topics

import torch
from torch import nn
from side_by_side import side_by_side

LENGTH = 16


class CharacterLSTM(nn.Module):
    def __init__(self, characters: int = 128, hidden: int = 48):
        super().__init__()
        self.embed = nn.Embedding(characters, 24)
        self.cell = nn.LSTMCell(24, hidden)
        self.out = nn.Linear(hidden, 2)

    def forward(self, text):
        x = self.embed(text)
        h = c = x.new_zeros(len(text), self.cell.hidden_size)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.out(h)


def encode(line: str) -> list[int]:
    return [min(ord(ch), 127) for ch in line.strip()[:LENGTH].ljust(LENGTH)]


def load_lines():
    """int64 [N, LENGTH] characters and int64 [N] labels (1: code) out of the standard library."""
    code = [line for line in inspect.getsource(argparse).splitlines() if len(line.strip()) >= 8]
    topics = pydoc_data.topics.topics.values()
    prose = [line for text in topics for line in text.splitlines() if len(line.strip()) >= 40][:len(code)]
    data = [(encode(line), 1) for line in code] + [(encode(line), 0) for line in prose]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.tensor([data[i][0] for i in order]), torch.tensor([data[i][1] for i in order])


def main(steps: int = 60, batch: int = 32):
    torch.manual_seed(0)
    x, y = load_lines()
    rows = torch.arange(len(x)).split(batch)[:steps]
    run = side_by_side("character LSTM", CharacterLSTM(), lambda p: torch.optim.RMSprop(p, lr=1e-3),
                       nn.functional.cross_entropy, [(x[r], y[r]) for r in rows if len(r) == batch])
    print(run)
    return run


if __name__ == "__main__":
    main()
