"""Adam without PyTorch's class of optimizers, the first of which imports PyTorch's compiler.

That takes each process a second and 70 MB. The numbers are `torch.optim.Adam`'s, because the
function that computes them is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam (Kingma and Ba 2015) of some parameters.

    fused: whether one kernel computes all of it; None: what PyTorch does by itself
    state: by parameter, from its first update on: the moments and the number of updates, by the
        names that `torch.optim.Adam` has for them
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
        fused: bool | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.learning_rate, self.epsilon = learning_rate, epsilon
        self._betas, self._fused = betas, fused

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient by it, once."""
        moved = [parameter for parameter in self.parameters if parameter.grad is not None]
        states = [self.state.get(parameter) or self.begin(parameter) for parameter in moved]
        adam(
            moved,
            [parameter.grad for parameter in moved if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=self._fused,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )

    def begin(self, parameter: Tensor, updates: int = 0) -> dict[str, Tensor]:
        """Enter a parameter whose moments are zero, laid out as it is, and return its state."""
        # Where one kernel computes all of it, it counts on the device.
        device = parameter.device if self._fused else None
        self.state[parameter] = {
            "step": torch.tensor(float(updates), device=device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
        return self.state[parameter]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
