"""What holds for every test: its name is the same in every process that collects it."""

from __future__ import annotations


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are called by their argument and a number: what they hold, a time, differs between processes."""
    return argname if isinstance(val, bytes) else None
