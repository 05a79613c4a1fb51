"""The optimiser of the tiny reader's training, and the plan that says how fast it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """Everything a run depends on."""

    seed: int = 0
    steps: int = 11115
    warmup: int = 300
    decay: int = 3890
    # The side and the pages of a micro batch; steps take turns.
    sides: tuple[tuple[int, int], ...] = ((640, 192), (512, 288), (640, 192))
    # A step adds up the gradients of these many micro batches, on one GPU or shared out among several.
    micro_batches: int = 2
    rate: float = 3e-3
    weight_decay: float = 0.05
    patch_weight: float = 0.5
    token_weight: float = 0.5
    balance_weight: float = 0.01

    def rate_at(self, step: int) -> float:
        """Return the factor of the learning rate: rises, stays, falls linearly to a hundredth."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, max(0.01, (self.steps - step) / self.decay))
        return rise * fall


class Optimiser:
    """Float32 copies of bfloat16 parameters, stepped by Muon (inner matrices) and AdamW (the rest)."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in named]
        self.masters = [parameter.detach().float().clone() for parameter in self.parameters]
        inner = [is_inner_matrix(name, parameter) for name, parameter in named]
        by_muon = [master for master, chosen in zip(self.masters, inner, strict=True) if chosen]
        others = [master for master, chosen in zip(self.masters, inner, strict=True) if not chosen]
        adam = [
            {"params": [m for m in others if m.dim() > 1], "weight_decay": plan.weight_decay},
            {"params": [m for m in others if m.dim() < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(adam, lr=plan.rate, betas=(0.9, 0.98), fused=self.masters[0].is_cuda)
        self.muon = Muon(by_muon, plan.weight_decay)
        self.rate = plan.rate

    def step(self, factor: float) -> Tensor:
        """Apply and clear the gradients; returns their norm before clipping to 1."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([part.flatten() for part in parts]).float()
        if dist.is_initialized():
            dist.all_reduce(flat)
        norm = flat.norm()
        flat *= (1.0 / norm).clamp(max=1.0)
        pieces = flat.split([part.numel() for part in parts])
        for master, parameter, piece in zip(self.masters, self.parameters, pieces, strict=True):
            master.grad, parameter.grad = piece.view_as(master), None
        for group in self.adam.param_groups:
            group["lr"] = self.rate * factor
        self.adam.step()
        self.muon.step(self.rate * factor)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.masters)
        return norm

    def state(self) -> dict[str, Any]:
        """Return what a later piece needs."""
        return {"masters": self.masters, "adam": self.adam.state_dict(), "muon": self.muon.momenta}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the state of an earlier piece."""
        with torch.no_grad():
            torch._foreach_copy_(self.masters, [part.float() for part in state["masters"]])
            torch._foreach_copy_(self.parameters, self.masters)
            for momenta, saved in zip(self.muon.momenta, state["muon"], strict=True):
                momenta.copy_(saved)
        self.adam.load_state_dict(state["adam"])


class Muon:
    """Muon, as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, for matrices of one shape all at once.

    PyTorch's own takes them one by one: 36 ms of a 280 ms step on an H200, and a thousand kernel launches.
    Constants are Jordan's (2024): a quintic Newton-Schulz iteration, and Nesterov momentum 0.95.
    """

    def __init__(self, masters: list[Tensor], weight_decay: float) -> None:
        shapes = sorted({master.shape for master in masters})
        self.groups = [[master for master in masters if master.shape == shape] for shape in shapes]
        self.momenta = [torch.zeros_like(torch.stack(group)) for group in self.groups]
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply the gradients."""
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([master.grad for master in group if master.grad is not None])
            momentum.lerp_(gradient, 0.05)
            update = orthogonalised(gradient.lerp(momentum, 0.95))
            adjusted = 0.2 * rate * max(update.shape[1:]) ** 0.5
            torch._foreach_mul_(group, 1 - rate * self.weight_decay)
            torch._foreach_sub_(group, list((adjusted * update).float().unbind()))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, columns) with all singular values near one: in bfloat16, on a CPU in float32.

    There a step takes three times as long in bfloat16.
    """
    turned = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x.mT if turned else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if turned else x


def is_inner_matrix(name: str, parameter: Tensor) -> bool:
    """Say whether Muon is for this parameter: matrices inside the network, not tables, routers or heads."""
    tables = ("embed", "rel_pos", "lm_head", "mlp.gate.", "heads.")
    return parameter.dim() == 2 and not any(part in name for part in tables)
