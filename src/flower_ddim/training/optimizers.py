"""The optimizers of the training: AdamW, or Muon for the kernels of the convolutions beside AdamW for the rest."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.optimization import get_scheduler

from .config import TrainingConfig


def make_optimizers(unet: torch.nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that share the parameters of the network among them, as `config.optimizer` says."""
    adamw = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
        "fused": True,
    }
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(unet.parameters(), **adamw)]
    kernels = [weight for name, weight in unet.named_parameters() if _is_hidden_kernel(name, weight)]
    chosen = {id(weight) for weight in kernels}
    others = [weight for weight in unet.parameters() if id(weight) not in chosen]
    # Its updates are scaled to the size of AdamW's, so that one learning rate does for both (Liu et al. 2025, section 2.2).
    muon = Muon(
        kernels, lr=config.learning_rate, weight_decay=config.adam_weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, **adamw)]


def learning_rate_factor(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int
) -> Callable[[int], float]:
    """What the learning rate is multiplied by, as a function of the optimizer step."""
    # Of the scheduler only its formula is used: how often it is called must not matter.
    options = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": total_steps}
    return get_scheduler(config.lr_scheduler, optimizer, **options).lr_lambdas[0]


def _is_hidden_kernel(name: str, weight: torch.Tensor) -> bool:
    """Muon is for the matrices inside a network, not for those that read its input and write its output."""
    return weight.ndim >= 2 and not name.startswith(("conv_in.", "conv_out.", "class_embedding."))


class Muon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for kernels of convolutions.

    Muon replaces the momentum of a matrix by the nearest orthogonal one, so that rare directions are learned as fast as
    frequent ones. A kernel (out, in, height, width) counts as a matrix of `out` rows.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], **options):
        params = list(params)
        with _as_matrices(params):  # PyTorch's takes nothing else
            super().__init__(params, **options)

    def step(self, closure=None):
        with _as_matrices([weight for group in self.param_groups for weight in group["params"]]):
            return super().step(closure)


@contextmanager
def _as_matrices(params: list[torch.nn.Parameter]) -> Iterator[None]:
    """Lets parameters and their gradients look like matrices over the same memory."""
    kept = [(weight, weight.data, weight.grad) for weight in params]
    try:
        for weight, data, grad in kept:
            # In the memory of channels_last weights, height and width come before the input channels.
            last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
            weight.grad = None
            weight.data = _matrix(data, last)
            weight.grad = None if grad is None else _matrix(grad, last)
        yield
    finally:
        for weight, data, grad in kept:
            weight.grad = None
            weight.data = data
            weight.grad = grad


def _matrix(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).flatten(1)
