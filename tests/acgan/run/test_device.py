from __future__ import annotations

import pytest
import torch

from acgan.errors import InputError
from acgan.run.device import default_device, named_device


def test_without_a_name_a_gpu_computes_where_there_is_one() -> None:
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_is_named_as_torch_names_it() -> None:
    assert named_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--device {name} cannot be used here .*; try cpu"):
        named_device(name)
