"""Time the NAFNet forward pass of this package beside a plain statement of the same network.

    python benchmarks/nafnet_forward.py [--size 256] [--rounds 9] [--device cpu]

The plain statement is how the network is usually written: channels-first data and a layer norm
composed of mean, variance and square root. Both have the same weights and see the same picture,
one after the other, round by round; the figure is the median over the rounds of the ratio of
times. On the CPU it is one thread and CPU time, so that other work on the machine counts less.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from dcpt import create_backbone


class PlainLayerNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        return self.weight.view(1, -1, 1, 1) * x + self.bias.view(1, -1, 1, 1)


class PlainBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv4, self.conv5 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.norm1, self.norm2 = PlainLayerNorm(c), PlainLayerNorm(c)
        self.beta, self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x):
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.conv3(y * self.sca(y)) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, dim=1)
        return x + self.conv5(a * b) * self.gamma


class PlainNAFNet(nn.Module):
    """The same network, module for module, as `of`; takes its weights."""

    def __init__(self, of):
        super().__init__()
        channels = of.feature_channels

        def stage(blocks):
            return nn.Sequential(*(PlainBlock(block.conv3.out_channels) for block in blocks))

        self.intro, self.ending = nn.Conv2d(3, channels[0], 3, padding=1), nn.Conv2d(channels[0], 3, 3, padding=1)
        self.encoders, self.middle_blks = nn.ModuleList(map(stage, of.encoders)), stage(of.middle_blks)
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in channels)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in channels[::-1]
        )
        self.decoders = nn.ModuleList(map(stage, of.decoders))
        self.load_state_dict(of.state_dict())

    def forward(self, x):
        y, skips = self.intro(x), []
        for encoder, down in zip(self.encoders, self.downs):
            skips.append(encoder(y))
            y = down(skips[-1])
        y = self.middle_blks(y)
        for up, decoder in zip(self.ups, self.decoders):
            y = decoder(up(y) + skips.pop())
        return self.ending(y) + x


def measure(network, x):
    on_gpu = x.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    y = network(x)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start, y


@torch.inference_mode()
def compare(name, size, rounds, device):
    torch.manual_seed(0)
    ours = create_backbone(name)
    for parameter in ours.parameters():
        if parameter.ndim == 4 and parameter.shape[2:] == (1, 1) and parameter.shape[0] == 1:
            nn.init.normal_(parameter, std=0.2)  # residual gains start at zero: then blocks would not matter
    plain, ours = PlainNAFNet(ours).to(device).eval(), ours.to(device).eval()
    x = torch.rand(1, 3, size, size, device=device)
    difference = (measure(ours, x)[1] - measure(plain, x)[1]).abs().max().item()
    pairs = [(measure(plain, x)[0], measure(ours, x)[0]) for _ in range(rounds)]
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    times = [1e3 * statistics.median(column) for column in zip(*pairs)]
    print(f"| {name} | {size}x{size} | {times[0]:.0f} | {times[1]:.0f} | {ratio:.2f} | {difference:.1e} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    print("| network | picture | plain, ms | this package, ms | ratio | largest difference |")
    print("|---|---|--:|--:|--:|--:|")
    for name in ("nafnet", "nafnet_small"):
        compare(name, arguments.size, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
