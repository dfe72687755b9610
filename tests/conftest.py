"""Long tests start first: on two cores the suite then ends when the work does, not when the last long test does."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move tests marked `long` to the front, keeping the order otherwise."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
