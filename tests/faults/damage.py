"""Damage to bytes, of which a valid file becomes a broken one."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

Damage = tuple[str, float, int]

DAMAGE_KINDS = ("flip", "cut", "end", "twice", "splice")
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(DAMAGE_KINDS),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 63),
    ),
    max_size=4,
)


def damaged(content: bytes, damages: Sequence[Damage], pieces: Sequence[bytes]) -> bytes:
    """Flip a bit, cut, repeat, or splice in a piece, each at a share of the length so far."""
    raw = bytearray(content)
    for kind, share, number in damages:
        start = int(share * len(raw))
        stop = start + number + 1
        match kind:
            case "flip" if raw:
                raw[start] ^= 1 << number % 8
            case "cut":
                del raw[start:stop]
            case "end":
                del raw[start:]
            case "twice":
                raw[start:start] = raw[start:stop]
            case "splice":
                raw[start:start] = pieces[number % len(pieces)]
    return bytes(raw)
