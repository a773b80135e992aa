"""The two languages that the pages speak: which one a request wants, and the words in it.

Words live in words/en.json and words/zh.json, flat `key: text` with `{placeholders}`; a test keeps both complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
COOKIE = "homespun-language"

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@cache
def words(language: Language) -> dict[str, str]:
    """The catalogue of one language."""
    path = resources.files(__package__) / "words" / f"{language}.json"
    catalogue: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return catalogue


@dataclass(frozen=True)
class Speech:
    """Words, numbers and dates in one language."""

    language: Language

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key`, placeholders filled in. A count `n` picks `key.one` or `key.other`; an unknown key raises
        KeyError."""
        catalogue = words(self.language)
        if "n" in values and key not in catalogue:
            key = f"{key}.{'one' if values['n'] == 1 else 'other'}"
        shown = {name: self.number(v) if isinstance(v, int) else v for name, v in values.items()}
        return catalogue[key].format(**shown)

    def number(self, value: int) -> str:
        return f"{value:,}"

    def share(self, share: float) -> str:
        """A share that was counted."""
        return f"{round(100 * share)}%"

    def percent(self, share: float) -> str:
        """A confidence as whole percent; never 0 or 100, which would claim certainty."""
        return f"{min(99, max(1, round(share * 100)))}%"

    def date(self, taken: str | None) -> str:
        """A day for people from ISO 8601 `YYYY-MM-DD...`; the text itself if it is something else."""
        if not taken:
            return self("photo.no_date")
        try:
            year, month, day = (int(part) for part in taken[:10].split("-"))
            name = _MONTHS[month - 1]
        except (ValueError, IndexError):
            return taken
        return f"{year}年{month}月{day}日" if self.language == "zh" else f"{day} {name} {year}"

    def month(self, month: str) -> str:
        """A month for people from `YYYY-MM`."""
        year, number = (int(part) for part in month.split("-"))
        return f"{year}年{number}月" if self.language == "zh" else f"{_MONTHS[number - 1]} {year}"

    def time(self, taken: str | None) -> str:
        """`HH:MM` of an ISO 8601 date with time, else nothing."""
        return taken[11:16] if taken and len(taken) >= 16 else ""

    def pick(self, en: str, zh: str | None) -> str:
        """The name in this language, or the other one where it has none."""
        return (zh or en) if self.language == "zh" else (en or zh or "")

    def sentences(self, each: Sequence[str]) -> str:
        """Sentences after each other: with a space between them, but for Chinese."""
        return ("" if self.language == "zh" else " ").join(each)

    @property
    def script_words(self) -> dict[str, str]:
        """What the scripts say: every key that begins with `js.`, without that prefix."""
        return {key[3:]: text for key, text in words(self.language).items() if key.startswith("js.")}


def choose_language(cookie: str | None, accept_language: str | None, default: Language | None = None) -> Language:
    """What the visitor chose, else what the server was started with, else what the browser asks for, else English."""
    for language in LANGUAGES:
        if cookie == language:
            return language
    if default is not None:
        return default
    ranked: list[tuple[float, int, Language]] = []
    for position, entry in enumerate((accept_language or "").split(",")[:20]):
        tag, _, parameters = entry.partition(";")
        primary = tag.strip().lower().split("-")[0]
        for language in LANGUAGES:
            if primary == language:
                ranked.append((-_quality(parameters), position, language))
    wanted = [entry for entry in sorted(ranked) if entry[0] < 0]
    return wanted[0][2] if wanted else "en"


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0
