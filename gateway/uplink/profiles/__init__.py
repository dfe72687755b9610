"""What a platform wants to read: one file a language, and the list of them.

Owns: which name of `platforms: - profile:` is which file. Never: sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config import Platform
from gateway.uplink.profile import Profile
from gateway.uplink.profiles.default import Default


def make(platform: Platform, root: str, gateway: str, names: Mapping[str, str]) -> Profile:
    """The language of one platform; `names`: point id → what people call it."""
    return Default(root, gateway, names, compact=platform.compact)
