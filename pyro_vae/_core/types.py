"""Types that the whole package shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Program = Callable[..., Any]
"""A Pyro model or guide: module, bound method, plain function, partial or autoguide."""
