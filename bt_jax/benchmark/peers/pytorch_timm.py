"""A model of timm in PyTorch, channels last, float32 on the CPU.

Options: `compile` uses torch.compile; `running_statistics` trains with BatchNorm as in inference.
"""

from collections.abc import Callable
from typing import Any

import turns


def build(mode: str, batch: int, size: int, model: str, *options: str) -> Callable[[], Any]:
    """Builds a step of AdamW or a forward pass without gradients."""
    import timm
    import torch

    torch.set_num_threads(turns.cores())
    torch.manual_seed(0)
    network = timm.create_model(model, pretrained=False, num_classes=4).to(memory_format=torch.channels_last)
    network.train(mode == "train")
    if "running_statistics" in options:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 4
    called = torch.compile(network) if "compile" in options else network
    if mode == "infer":
        return torch.inference_mode()(lambda: called(images))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(called(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    turns.serve(build, packages=("torch", "timm"))
