"""Binary codes: signs of outputs as unit rows, so that cosine ranks as Hamming does; and packed, eight to a byte."""

import torch
from torch import Tensor

_PLACES = tuple(range(7, -1, -1))
"""Of bits in a byte: the first is the highest, as NumPy and faiss have it."""


def sign_codes(outputs: Tensor) -> Tensor:
    r"""Codes of $\pm1/\sqrt{bits}$ `(n, bits)`: rows of unit length whose cosine is $1 - 2\,h / bits$ at a distance h.

    Example:
        ```python
        >>> sign_codes(torch.tensor([[0.3, -2.0, 0.0, 1.0]]))
        tensor([[ 0.5000, -0.5000,  0.5000,  0.5000]])

        ```
    """
    # What is no number stays none, and is seen: as a sign it would pass for an embedding.
    signs = torch.where(outputs >= 0, 1.0, torch.where(outputs < 0, -1.0, torch.nan))
    return signs.to(outputs) / outputs.shape[-1] ** 0.5


def pack(codes: Tensor) -> Tensor:
    """Bytes `(n, ceil(bits / 8))` of codes `(n, bits)`, whose positive entries are ones; the last is filled with zeros.

    Example:
        ```python
        >>> pack(torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0]]))
        tensor([[129, 128]], dtype=torch.uint8)

        ```
    """
    if not isinstance(codes, Tensor):
        raise TypeError(f"Codes are a tensor (n, bits), got {type(codes).__name__}: wrap it by `torch.as_tensor`.")
    if codes.ndim != 2 or not ((codes > 0) | (codes < 0)).all():
        raise ValueError(f"Codes are rows (n, bits) of one positive and one negative number, got {tuple(codes.shape)}.")
    rows, bits = codes.shape
    ones = torch.nn.functional.pad((codes > 0).to(torch.uint8), (0, -bits % 8)).reshape(rows, -(-bits // 8), 8)
    return (ones << _places(codes)).sum(dim=2).to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes `(n, bits)` of +-1/sqrt(bits) that were packed."""
    _check_packed(packed)
    if not 0 < bits <= 8 * packed.shape[1] < bits + 8:
        raise ValueError(f"{packed.shape[1]} bytes a row hold no codes of {bits} bits.")
    ones = (packed.unsqueeze(2) >> _places(packed)) & 1
    return sign_codes(ones.flatten(1)[:, :bits].float() - 0.5)


def hamming(queries: Tensor, gallery: Tensor) -> Tensor:
    """In how many bits packed codes differ, `(q, n)`.

    Example:
        ```python
        >>> hamming(torch.tensor([[3]], dtype=torch.uint8), torch.tensor([[1], [4]], dtype=torch.uint8))
        tensor([[1, 3]])

        ```
    """
    _check_packed(queries)
    _check_packed(gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"Codes of {queries.shape[1]} bytes and of {gallery.shape[1]} cannot be compared.")
    ones = torch.tensor([number.bit_count() for number in range(256)], device=queries.device)
    distances = torch.zeros(len(queries), len(gallery), dtype=torch.int64, device=queries.device)
    for mine, theirs in zip(queries.T, gallery.T, strict=True):  # a few times the result, however many bits
        distances += ones[(mine.unsqueeze(1) ^ theirs).long()]
    return distances


def _places(like: Tensor) -> Tensor:
    return torch.tensor(_PLACES, dtype=torch.uint8, device=like.device)


def _check_packed(packed: Tensor) -> None:
    if not isinstance(packed, Tensor):
        raise TypeError(f"Packed codes are a tensor of bytes, got {type(packed).__name__}: use `torch.as_tensor`.")
    if packed.ndim != 2 or packed.dtype != torch.uint8:
        raise ValueError(f"Packed codes are bytes (n, bits / 8), got {packed.dtype} of shape {tuple(packed.shape)}.")
