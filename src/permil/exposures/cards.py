"""Cards of FITS headers, read as they are found in the files: only those asked for are parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

CARD = 80

_STRING = re.compile(r"\s*'((?:[^']|'')*)'")

CardValue = str | int | float | bool | None


@dataclass(frozen=True)
class Cards:
    """The cards of a header, of which only those asked for are parsed, and only once."""

    header: bytes
    _known: dict[str, tuple[CardValue, ...]] = field(default_factory=dict, repr=False, compare=False)

    def get(self, name: str, default: CardValue = None) -> CardValue:
        """Return the value of a card, None for an undefined one; of repeated cards the first counts."""
        if name not in self._known:
            self._known[name] = self._find(name)
        found = self._known[name]
        return found[0] if found else default

    def _find(self, name: str) -> tuple[CardValue, ...]:
        """Return the value of a card by itself; nothing if there is no such card."""
        key = f"{name:<8}= ".encode()
        start = self.header.find(key)
        while start % CARD and start >= 0:
            start = self.header.find(key, start + 1)
        return () if start < 0 else (_card_value(self.header[start + len(key) : start + CARD].decode("ascii", "replace")),)

    def integer(self, name: str, default: int) -> int:
        """Return the value of an integer card."""
        content = self.get(name, default)
        return content if isinstance(content, int) else default


def _card_value(text: str) -> CardValue:
    quoted = _STRING.match(text)
    if quoted:
        return quoted.group(1).replace("''", "'").rstrip()
    token = text.split("/", maxsplit=1)[0].strip()
    if token in ("", "T", "F"):
        return {"": None, "T": True, "F": False}[token]
    for convert in (int, float):
        try:
            return convert(token.replace("D", "E"))
        except ValueError:
            continue
    return token
