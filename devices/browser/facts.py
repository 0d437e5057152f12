"""What a page tells of its browser and machine, as facts that must be equal for two measurements to be comparable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdedge.measured import DeviceIdentity

# In the order of the page's own list; anything else that a page says is not kept.
FACTS = ("browser", "platform", "model", "architecture", "cores", "memory_gib", "wasm", "cross_origin_isolated", "webgpu", "onnxruntime-web")
_LENGTH = 120


def checked_facts(said: Mapping[str, Any]) -> dict[str, str]:
    """The facts that are known by name, as one line of printable text each."""
    found: dict[str, str] = {}
    for name in FACTS:
        value = said.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = "".join(sign for sign in " ".join(str(value).split()) if sign.isprintable())[:_LENGTH]
            found |= {name: text} if text else {}
    return found


def page_name(facts: Mapping[str, str], taken: Sequence[str]) -> str:
    """A short name from browser and model or platform: `chrome-pixel-8`; the next one of that name gets a number."""
    browser = re.sub(r"[\d.]+$", "", facts.get("browser", "")).strip() or "browser"
    words = f"{browser} {facts.get('model') or re.sub(r'[0-9.]+$', '', facts.get('platform', ''))}".lower()
    base = "-".join(re.findall(r"[a-z0-9]+", words))[:40] or "browser"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def device_name(page: str) -> str:
    """What a device is called: `browser` where any page will do."""
    return f"browser:{page}" if page else "browser"


def identity(device: str, facts: Mapping[str, str], version: str) -> DeviceIdentity:
    """`version`: of the onnxruntime-web that the server gives out."""
    return DeviceIdentity(
        name=device, kind="browser", machines=("browser",), fingerprint={"machine": "browser", **facts, "onnxruntime-web": version or "unknown"}
    )
