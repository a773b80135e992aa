"""Checks of options that many callers give, so that each is refused in the same words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.errors import OptionError


def at_least_one(name: str, value: Any) -> int:
    """An option that counts something. Raises `OptionError`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise OptionError(f"{name} is {value!r}; it must be a whole number, at least 1")
    return int(value)


def not_negative(name: str, value: Any, most: float = math.inf) -> float:
    """An option as a number from 0 to `most`. Raises `OptionError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= most:
        bound = "" if most == math.inf else ", finite"
        raise OptionError(f"{name} is {value!r}; it must be a number{bound} and not negative")
    return float(value)
