"""Which device computes."""

import torch

from acgan.cores import usable_cores
from acgan.errors import InputError


def use_own_cores() -> None:
    """Have PyTorch compute with no more threads than this process has cores to use.

    It follows the affinity by itself, but not a control group's quota, beyond which threads only
    wait for each other; fewer threads that the user has set stay.
    """
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def default_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """Return the device that a user named with --device; `InputError` if it cannot be used."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--device {name} cannot be used here ({reason}); try cpu") from error
