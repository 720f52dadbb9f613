"""The choice between two forms of one operation, by the platform that a program will run on."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_portable = contextvars.ContextVar("portable", default=False)


def choose(*operands: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """`cpu` on CPU, `default` elsewhere; of one traced within `portable`, `default` everywhere."""
    if _portable.get():
        return default(*operands)
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Programs traced within ask for no platform; some formats have no way to."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
