"""A model of timm in PyTorch, channels last: float32 on a CPU, bfloat16 by autocast on a GPU.

Options: `compile` and `compile=MODE` use torch.compile; `running_statistics` trains with BatchNorm as in inference;
`clip_norm=NORM` clips the gradient; `average_decay=DECAY` keeps a moving average of weights and statistics; `gpu` runs
on the GPU.
"""

from collections.abc import Callable
from typing import Any

import turns


def build(mode: str, batch: int, size: int, model: str, *options: str) -> turns.Step:
    """Builds a step of AdamW or a forward pass without gradients."""
    import timm
    import torch

    chosen = dict(option.partition("=")[::2] for option in options)
    device = "cuda" if "gpu" in chosen else "cpu"
    torch.set_num_threads(turns.count_cores())
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # cuDNN times its algorithms and takes the fastest
    torch.set_float32_matmul_precision("high")
    network = timm.create_model(model, pretrained=False, num_classes=4)
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 4
    _estimate_statistics(network, images, device)
    network.train(mode == "train")
    if "running_statistics" in chosen:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def predict() -> Any:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            return network(images)

    def compute_loss() -> Any:
        return torch.nn.functional.cross_entropy(predict().float(), labels, label_smoothing=0.1)

    if "compile" in chosen:
        predict, compute_loss = (torch.compile(f, mode=chosen["compile"] or None) for f in (predict, compute_loss))
    step = torch.inference_mode()(predict) if mode == "infer" else _make_training_step(network, compute_loss, chosen)

    def run() -> None:
        if chosen.get("compile") == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        step()

    if device == "cpu":
        return turns.Step(run)
    return turns.Step(run, torch.cuda.synchronize, turns.STEPS_ON_ACCELERATOR, torch.cuda.max_memory_allocated)


def _make_training_step(network: Any, compute_loss: Callable[[], Any], chosen: dict[str, str]) -> Callable[[], Any]:
    import torch

    parameters = list(network.parameters())
    on_gpu = parameters[0].is_cuda
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=on_gpu or None)
    moving = parameters + [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    average = [array.detach().clone() for array in moving] if "average_decay" in chosen else []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        compute_loss().backward()
        if "clip_norm" in chosen:
            torch.nn.utils.clip_grad_norm_(parameters, float(chosen["clip_norm"]), foreach=True)
        optimizer.step()
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(average, moving, 1 - float(chosen["average_decay"]))

    return step


def _estimate_statistics(network: Any, images: Any, device: str) -> None:
    """Sets the running statistics to those of the images.

    On its first statistics, 0 and 1, a random network fades to subnormal numbers, which a CPU computes slowly.
    """
    import torch

    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


if __name__ == "__main__":
    turns.serve(build, packages=("torch", "timm"))
