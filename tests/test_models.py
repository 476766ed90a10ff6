"""Realistic models, trained for a few steps, compiled against eager: the same losses and the same parameters."""
import copy
import warnings
from functools import lru_cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import smelt

STEPS = 5


class ResNet(nn.Module):
    """A residual block with batch norm between two convolutions, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x, y):
        x = F.relu(self.stem(x), inplace=True)
        h = F.relu(self.norm_a(self.a(x)))
        x = F.relu(x + self.norm_b(self.b(h)))
        return F.cross_entropy(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)), y)

    def data(self):
        return torch.randn(4, 3, 8, 8), torch.randint(5, (4,))


class UNet(nn.Module):
    """Down, up by interpolation and by a transposed convolution, with skip connections."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.merge = nn.ModuleList([nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)])

    def forward(self, x, y):
        skips = []
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.1)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.up(self.middle(x))
        x = F.relu(self.merge[0](torch.cat([x, skips.pop()], 1)))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.merge[1](torch.cat([x, skips.pop()], 1))
        return F.binary_cross_entropy_with_logits(x, y)

    def data(self):
        return torch.randn(2, 1, 8, 8), torch.rand(2, 1, 8, 8).round()


class VAE(nn.Module):
    """A variational autoencoder: the reparameterisation draws random numbers."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 16), nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 12))
        self.mean, self.logvar = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        h = F.elu(self.encode(x))
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        divergence = -0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).sum(1).mean()
        return F.mse_loss(self.decode(z), x, reduction="sum") / len(x) + divergence

    def data(self):
        return (torch.randn(8, 12),)


class Seq2Seq(nn.Module):
    """A GRU encoder and a decoder cell with teacher forcing, step by step."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.encoder, self.cell = nn.GRU(6, 8, batch_first=True), nn.GRUCell(6, 8)
        self.out = nn.Linear(8, 11)

    def forward(self, source, target):
        _, h = self.encoder(self.embed(source))
        h, loss = h[0], 0
        for t in range(target.shape[1] - 1):
            h = self.cell(self.embed(target[:, t]), h)
            loss = loss + F.cross_entropy(self.out(h), target[:, t + 1], ignore_index=0)
        return loss / (target.shape[1] - 1)

    def data(self):
        return torch.randint(1, 11, (3, 3)), torch.randint(0, 11, (3, 3))


class Tagger(nn.Module):
    """A bidirectional LSTM over two layers, with dropout."""

    def __init__(self):
        super().__init__()
        self.embed, self.drop = nn.Embedding(20, 6, padding_idx=0), nn.Dropout(0.2)
        self.lstm, self.out = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(10, 4)

    def forward(self, words, tags):
        h, _ = self.lstm(self.drop(self.embed(words)))
        return F.cross_entropy(self.out(h).flatten(0, 1), tags.flatten())

    def data(self):
        return torch.randint(20, (2, 6)), torch.randint(4, (2, 6))


class ViT(nn.Module):
    """Patches, a class token, and torch's own transformer encoder."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 5))

    def forward(self, x, y):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return F.cross_entropy(self.head(self.encoder(x)[:, 0]), y, label_smoothing=0.1)

    def data(self):
        return torch.randn(3, 3, 8, 8), torch.randint(5, (3,))


class GPT(nn.Module):
    """A block with causal attention written out by hand, one with scaled_dot_product_attention, and tied weights."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(13, 16), nn.Embedding(8, 16)
        self.qkv = nn.ModuleList([nn.Linear(16, 48) for _ in range(2)])
        self.project = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 16))
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(4)])
        self.register_buffer("mask", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))
        self.head = nn.Linear(16, 13, bias=False)
        self.head.weight = self.embed.weight

    def attend(self, x, k):
        b, t, c = x.shape
        q, key, v = (y.view(b, t, 2, c // 2).transpose(1, 2) for y in self.qkv[k](x).split(c, dim=2))
        if k == 0:
            scores = (q @ key.transpose(-2, -1)) * (c // 2) ** -0.5
            y = F.softmax(scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")), dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, key, v, is_causal=True)
        return self.project[k](y.transpose(1, 2).contiguous().view(b, t, c))

    def forward(self, tokens):
        t = tokens.shape[1] - 1
        x = self.embed(tokens[:, :-1]) + self.place(torch.arange(t))
        for k in range(2):
            x = x + self.attend(self.norms[k](x), k)
        x = self.norms[3](x + self.mlp(self.norms[2](x)))
        return F.cross_entropy(self.head(x).reshape(-1, 13), tokens[:, 1:].reshape(-1))

    def data(self):
        return (torch.randint(13, (2, 7)),)


class GraphConv(nn.Module):
    """Messages along the edges, summed at the nodes with index_add."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def spread(self, x, edges):
        degree = torch.zeros(len(x)).index_add(0, edges[1], torch.ones(edges.shape[1])).clamp(min=1)
        return torch.zeros_like(x).index_add_(0, edges[1], x[edges[0]]) / degree[:, None]

    def forward(self, x, edges, y):
        x = F.relu(self.spread(self.a(x), edges))
        return F.nll_loss(F.log_softmax(self.spread(self.b(x), edges), -1), y)

    def data(self):
        return torch.randn(6, 4), torch.randint(6, (2, 14)), torch.randint(3, (6,))


class Recommender(nn.Module):
    """Bags of items, user factors, and a small network on top."""

    def __init__(self):
        super().__init__()
        self.items, self.users = nn.EmbeddingBag(15, 6, mode="mean"), nn.Embedding(5, 6)
        self.top = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, users, items, clicked):
        u, i = self.users(users), self.items(items)
        x = torch.cat([u, i, (u * i).sum(1, keepdim=True)], 1)
        return F.binary_cross_entropy(torch.sigmoid(self.top(x)).squeeze(1), clicked)

    def data(self):
        return torch.randint(5, (4,)), torch.randint(15, (4, 3)), torch.rand(4).round()


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(4, 8, 2, dilation=2 ** k) for k in range(3)])
        self.into, self.out = nn.Conv1d(1, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 1, 1))

    def forward(self, x):
        h = self.into(x[..., :-1])
        for layer in self.layers:
            a, b = layer(F.pad(h, (layer.dilation[0], 0))).chunk(2, dim=1)
            h = h + torch.tanh(a) * torch.sigmoid(b)
        return F.smooth_l1_loss(self.out(h), x[..., 1:])

    def data(self):
        return (torch.randn(2, 1, 16),)


class Siamese(nn.Module):
    """One network on three inputs, with a triplet loss."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 4))

    def forward(self, *inputs):
        a, b, c = (F.normalize(self.net(x), dim=1) for x in inputs)
        return F.triplet_margin_loss(a, b, c) + 0.1 * (1 - F.cosine_similarity(a, b)).mean()

    def data(self):
        return tuple(torch.randn(5, 6) for _ in range(3))


class Experts(nn.Module):
    """A mixture of experts: every token's two best ones, weighed."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 8) / 3), nn.Parameter(torch.randn(4, 8, 6) / 3)

    def forward(self, x, y):
        weights, chosen = self.gate(x).topk(2, dim=-1)
        h = torch.einsum("te,nef->tnf", x, self.up)
        outputs = torch.einsum("tnf,nfe->tne", F.gelu(h), self.down)
        picked = outputs.gather(1, chosen[..., None].expand(-1, -1, 6))
        return F.huber_loss((picked * weights.softmax(-1)[..., None]).sum(1), y)

    def data(self):
        return torch.randn(7, 6), torch.randn(7, 6)


MODELS = (ResNet, UNet, VAE, Seq2Seq, Tagger, ViT, GPT, GraphConv, Recommender, WaveNet, Siamese, Experts)


def train(module, loss_of, batches, optimizer=torch.optim.Adam):
    """The losses of some steps, each under a seed of its own."""
    optimizer, losses = optimizer(module.parameters(), lr=1e-2), []
    for seed, batch in enumerate(batches):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", smelt.SmeltWarning)
        yield


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_training(model):
    torch.manual_seed(0)
    eager = model()
    twin = copy.deepcopy(eager)
    batches = [eager.data() for _ in range(STEPS)]
    compiled = smelt.compile(twin)
    expected, found = train(eager, eager, batches), train(twin, compiled, batches)
    assert expected[0] != expected[-1]
    assert_close(found, expected, rtol=1e-4, atol=0)
    assert smelt.explain(compiled).compiled


@pytest.mark.parametrize("model", [ResNet, Tagger, ViT, GPT], ids=lambda m: m.__name__)
def test_evaluation(model):
    torch.manual_seed(0)
    eager = model().eval()
    compiled = smelt.compile(copy.deepcopy(eager))
    batches = [eager.data() for _ in range(3)]
    with torch.no_grad():
        for seed, batch in enumerate(batches):
            torch.manual_seed(seed)
            expected = eager(*batch)
            torch.manual_seed(seed)
            assert_close(compiled(*batch), expected, rtol=1e-4, atol=1e-6)
    assert smelt.explain(compiled).compiled


def test_a_gan():
    """Two networks, each trained through the other; the discriminator is used twice in one graph."""
    def run(wrap):
        torch.manual_seed(0)
        generator, critic = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), nn.Sequential(
            nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
        g, c = wrap(generator), wrap(critic)
        steps = torch.optim.Adam(generator.parameters(), lr=1e-2), torch.optim.Adam(critic.parameters(), lr=1e-2)
        losses = []
        for _ in range(STEPS):
            real, fake = torch.randn(6, 2), g(torch.randn(6, 3))
            for step, loss in zip(reversed(steps), (
                    lambda: F.softplus(c(fake.detach())).mean() + F.softplus(-c(real)).mean(),
                    lambda: F.softplus(-c(fake)).mean())):
                step.zero_grad()
                losses.append(loss())
                losses[-1].backward()
                step.step()
        return torch.stack(losses).detach(), g, c
    expected, _, _ = run(lambda m: m)
    found, *compiled = run(smelt.compile)
    assert_close(found, expected, rtol=1e-4, atol=0)
    assert all(smelt.explain(c).compiled for c in compiled)


def agree(make, calls):
    """`make(wrap)` gives a function; called so, on twins eager and compiled, it gives the same results in the same layout."""
    def run(wrap):
        torch.manual_seed(0)
        function, wrapped = make(wrap)
        found = []
        for seed, arguments in enumerate(calls):
            torch.manual_seed(seed)
            found.append(function(*arguments))
        return found, wrapped
    (expected, _), (found, compiled) = run(lambda f: f), run(smelt.compile)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for a, b in zip(found, expected):
        assert [t.stride() for t in a] == [t.stride() for t in b]
    return compiled


def test_packed_sequences():
    """How many rows a packed sequence has, and how many sequences go on at each time, is up to the lengths."""
    def make(wrap):
        net = nn.LSTM(3, 4, batch_first=True)

        def encode(x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            out, (h, _) = net(packed)
            return *nn.utils.rnn.pad_packed_sequence(out, batch_first=True), h
        encode = wrap(encode)

        def step(x, lengths):
            x = x.clone().requires_grad_()
            out, found, h = encode(x, lengths)
            (out.sum() + h.square().sum()).backward()
            return out, found, h, x.grad
        return step, encode

    def programs(*lengths):
        longest = max(map(max, lengths))
        report = smelt.explain(agree(make, [(torch.randn(3, longest, 3), torch.tensor(n)) for n in lengths]))
        assert report.compiled
        return len(report.programs)
    assert programs([5, 3, 2], [4, 5, 1], [2, 2, 5], [4, 5, 3]) == programs([5, 3, 2], [5, 3, 2])
    assert programs([40, 3, 20], [4, 40, 17], [2, 2, 40]) == programs([40, 3, 2], [40, 3, 2])


@pytest.mark.parametrize("net", [nn.GRU, nn.RNN])
def test_a_net_over_a_long_sequence_is_one_op(net):
    """Each of its steps would take its time to compile."""
    compiled = agree(lambda wrap: 2 * (wrap(net(3, 4)),), [(torch.randn(200, 2, 3),) for _ in range(3)])
    program, = smelt.explain(compiled).programs
    assert program.recorded_ops < 20


def test_a_recurrent_language_model():
    """Hidden states from call to call, two layers, clipped gradients, a step written out, and a rate that falls."""
    def make(wrap):
        embed, net, head = nn.Embedding(9, 4), nn.LSTM(4, 5, 2, batch_first=True), nn.Linear(5, 9)
        parameters = [*embed.parameters(), *net.parameters(), *head.parameters()]

        def step(words, following, h, c, rate):
            for p in parameters:
                p.grad = None
            out, (h, c) = net(embed(words), (h.detach(), c.detach()))
            loss = F.cross_entropy(head(out).flatten(0, 1), following.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.25)
            for p in parameters:
                p.data.add_(p.grad, alpha=-rate)
            return loss, h, c
        step = wrap(step)
        state = [torch.zeros(2, 3, 5), torch.zeros(2, 3, 5)]

        def carried(words, following, rate):
            loss, *state[:] = step(words, following, *state, rate)
            return loss.detach(), *state, *(p.detach().clone() for p in parameters)
        return carried, step
    words = torch.randint(9, (5, 3, 6))
    compiled = agree(make, [(w[:, :-1], w[:, 1:], rate) for w, rate in zip(words, (20.0, 20.0, 5.0, 5.0, 2.5))])
    assert smelt.explain(compiled).compiled


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_takes_the_way_that_it_takes_in_eager(need_weights):
    """Without gradients torch's module has another implementation, whose results lie otherwise in memory."""
    def make(wrap):
        net = wrap(nn.MultiheadAttention(8, 2, batch_first=True).eval())

        @torch.no_grad()
        def attend(x):
            return [t for t in net(x, x, x, need_weights=need_weights) if t is not None]
        return attend, net
    assert smelt.explain(agree(make, [(torch.randn(2, 5, 8),) for _ in range(3)])).compiled


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_padded_encoder_gives_what_eager_gives():
    """The encoder of torch's, evaluated: what is padded comes out as zeros, where the padding is at the ends."""
    def make(wrap):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        net = wrap(nn.TransformerEncoder(layer, 2).eval())

        @torch.no_grad()
        def encode(x, padding):
            return [net(x, src_key_padding_mask=padding)]
        return encode, net
    x = torch.randn(2, 4, 8)
    paddings = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]).bool()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smelt.SmeltWarning)
        agree(make, [(x, torch.stack([torch.zeros(4).bool(), p])) for p in paddings])


def test_a_step_that_logs_once():
    """What can't be observed of a training step makes it eager, and nothing else."""
    def make(wrap):
        net = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)

        @lru_cache
        def once(text):
            return text

        def step(x):
            optimizer.zero_grad()
            once("a loss of its own")
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach(), net.weight.detach().clone()
        wrapped = wrap(step)
        return wrapped, wrapped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", smelt.SmeltWarning)
        agree(make, [(torch.randn(4, 3),) for _ in range(4)])
