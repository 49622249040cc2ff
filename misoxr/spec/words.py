"""Spell names of classes: as labels say them, and as the flags of maps do."""

import unicodedata
from typing import Any

__all__ = ["flag_word", "trimmed"]


def trimmed(text: str) -> str:
    """Return a text without blanks around it, and each accent in one form (NFC): programs write é as one character, or as two."""
    return unicodedata.normalize("NFC", text).strip()


def flag_word(name: Any) -> str:
    """Return a class's name as flags spell it: one word, with "_" for blanks of any kind."""
    return "_".join(trimmed(str(name)).split())
