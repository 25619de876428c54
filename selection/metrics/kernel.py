"""KID's kernel (x·y / D + 1)³: a polynomial of degree 3 (Bińkowski et al. 2018)."""

from torch import Tensor


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the kernel of all rows of `a` [N, D] with all rows of `b` [M, D], [N, M]."""
    return _of_product(a @ b.T, a.shape[1])


def kernel_with_itself(x: Tensor) -> Tensor:
    """Return the kernel of each row of `x` [N, D] with itself, [N]."""
    return _of_product((x * x).sum(dim=1), x.shape[1])


def _of_product(product: Tensor, dimensions: int) -> Tensor:
    return (product / dimensions + 1) ** 3
