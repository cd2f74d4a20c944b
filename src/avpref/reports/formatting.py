"""Numbers and files as text: signed and short numbers, data URLs."""

from __future__ import annotations

import base64


def signed(value: float, digits: int = 2) -> str:
    """``value`` with its sign and ``digits`` decimal places; a dash for NaN. The minus is U+2212."""
    return "–" if value != value else f"{value:+.{digits}f}".replace("-", "−")


def short(value: float | None) -> str:
    """``value`` with three significant digits; a dash for None and NaN. The minus is U+2212."""
    return "–" if value is None or value != value else f"{value:.3g}".replace("-", "−")


def data_url(data: bytes, media_type: str) -> str:
    """``data`` as a base64 data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
