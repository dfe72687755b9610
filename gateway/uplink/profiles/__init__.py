"""What a platform wants to read: one file a language, and the list of them.

Owns: which name of `platforms: - profile:` is which file. Never: sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config import Platform
from gateway.uplink.profile import Profile
from gateway.uplink.profiles.default import Default
from gateway.uplink.profiles.senml import Senml
from gateway.uplink.profiles.thingsboard import ThingsBoard


def make(platform: Platform, root: str, gateway: str, names: Mapping[str, str]) -> Profile:
    """The language of one platform; `names`: point id → what people call it."""
    if platform.profile == "thingsboard":
        return ThingsBoard(gateway)
    default = Default(root, gateway, names, compact=platform.compact)
    return Senml(default) if platform.profile == "senml" else default
