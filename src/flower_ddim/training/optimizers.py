"""The optimizers of the training: AdamW, or Muon for the kernels of the convolutions beside AdamW for the rest."""

import math
from collections.abc import Callable, Iterable

import torch
from diffusers.optimization import get_scheduler

from ..machine import has_bfloat16
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
    # Its updates are scaled to the size of AdamW's, so that one learning rate does for both.
    muon = Muon(kernels, lr=config.learning_rate, weight_decay=config.adam_weight_decay)
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


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for kernels of convolutions.

    Muon replaces the momentum of a matrix by the nearest orthogonal one, so that rare directions are learned as fast as
    frequent ones. A kernel (out, in, height, width) counts as a matrix of `out` rows. Updates have the size of AdamW's.

    `torch.optim.Muon` makes the same steps, but of matrices only, and always in bfloat16, which processors without instructions
    for it compute more than ten times as slowly as float32.

    Args:
        params: weights of two dimensions or more.
        lr: learning rate.
        weight_decay: decoupled, as in AdamW: every step multiplies the weights by 1 - lr · weight_decay.
        momentum: decay of the mean gradient (Nesterov's).
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every weight that has a gradient; returns the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _update(self, weight: torch.Tensor, lr: float, weight_decay: float, momentum: float):
        # In the memory of channels_last weights, height and width come before the input channels.
        last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        matrix, grad = (_matrix(tensor, last) for tensor in (weight, weight.grad))
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalize(grad.lerp(mean, momentum))
        # Liu et al. 2025, section 2.2: the size of AdamW's updates.
        matrix.mul_(1 - lr * weight_decay).add_(update, alpha=-0.2 * math.sqrt(max(matrix.shape)) * lr)


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About the orthogonal matrix nearest to `matrix` (M, N), in its shape, by Newton-Schulz iteration (Jordan et al. 2024).

    The singular values come near 1, within a third. The result is bfloat16, or float32 on a CPU without instructions for that.
    """
    a, b, c = 3.4445, -4.775, 2.0315  # chosen by Jordan et al. for speed; the values need not come to 1
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(_fast_dtype(matrix.device))
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, whose few digits are enough, unless a processor would have to emulate it."""
    return torch.float32 if device.type == "cpu" and not has_bfloat16() else torch.bfloat16


def _matrix(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """A view of the tensor as a matrix of as many rows as it has, in the order of its memory."""
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).flatten(1)
