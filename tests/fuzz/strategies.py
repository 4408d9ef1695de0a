"""What the properties are tried on: valid values, and what becomes of them when a few pieces are cut, doubled, put in.

`FUZZ_EXAMPLES` is how many of them a property sees. Without it there are few, and the same ones each time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, AnyStr

from fuzz.mutations import HOSTILE_NUMBERS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fuzzed", "mutated", "numbers", "texts"]

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

fuzzed = settings(
    max_examples=_EXAMPLES or 20,
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
"""On every property: `@fuzzed @given(...)`."""

texts = st.text(st.characters(), max_size=40)
"""Any characters: lone surrogates, too."""
numbers = st.one_of(st.sampled_from(HOSTILE_NUMBERS), st.integers().map(str), st.floats().map(str), texts)


@st.composite
def mutated(draw: Any, valid: Sequence[AnyStr], pieces: Sequence[AnyStr]) -> AnyStr:
    """One of `valid`, with up to six changes: `pieces` or anything put in, parts cut out or doubled, two spliced."""
    value = draw(st.sampled_from(valid))
    anything = st.text(max_size=5) if isinstance(value, str) else st.binary(max_size=5)
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(value)))
        end = draw(st.integers(start, min(len(value), start + 12)))
        match draw(st.integers(0, 4)):
            case 0:
                value = value[:start] + value[end:]
            case 1:
                value = value[:start] + value[start:end] * 2 + value[end:]
            case 2:
                value = value[:start] + draw(st.sampled_from(pieces)) + value[end:]
            case 3:
                value = value[:start] + draw(anything) + value[end:]
            case _:
                other = draw(st.sampled_from(valid))
                value = value[:start] + other[draw(st.integers(0, len(other))) :]
    return value
