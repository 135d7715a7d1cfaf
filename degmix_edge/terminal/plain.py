"""The one place where text that may come from files is made safe for a terminal."""

from __future__ import annotations

_HIDDEN = {*range(32), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
_HIDDEN |= {0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_VISIBLE = {code: repr(chr(code))[1:-1] for code in _HIDDEN}


def plain(text: str) -> str:
    """Make control characters visible: names in files could move the cursor or reverse the text."""
    return text.translate(_VISIBLE)
