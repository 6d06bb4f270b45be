"""Who says what in a play marked up as XML.

The elements are those of the PlayShakespeare.com editions: ``<sp>`` is a speech, with a
``<speaker>`` and its lines ``<l>``, verse or prose; ``<stage>`` holds a stage direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import one_line

__all__ = ["Play", "read_play"]

_IN_SPEECH = ("speaker", "l")


@dataclass(frozen=True, kw_only=True)
class Play:
    """The lines of each role.

    Attributes
    ----------
    title : str
        The title of type ``common``, else the first one, else empty.
    roles : mapping of str to tuple of str
        Lines by speaker, roles by their first line; white space is one space, stage directions
        are left out. A role in disguise keeps its ``<speaker>`` and stays one.
    """

    title: str
    roles: Mapping[str, tuple[str, ...]]


def read_play(document: bytes, *, name: str) -> Play:
    """Read one XML document; a document without speeches has no roles.

    Parameters
    ----------
    document : bytes
        The file, in the encoding that it states.
    name : str
        What errors call it.

    Raises
    ------
    DataError
        If it is not well-formed XML, or defines entities (which a play does not, and which can
        stand for gigabytes).
    """
    speeches = _Speeches(name)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = speeches.start
    parser.EndElementHandler = speeches.end
    parser.CharacterDataHandler = speeches.characters
    parser.EntityDeclHandler = speeches.refuse_entity
    try:
        parser.Parse(document, True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"{name}: not well-formed XML ({one_line(error)})") from error
    return Play(
        title=speeches.title,
        roles={role: tuple(lines) for role, lines in speeches.roles.items()},
    )


class _Speeches:
    """What the parser calls: element by element, without a tree."""

    def __init__(self, name: str) -> None:
        self.title = ""
        self.roles: dict[str, list[str]] = {}
        self._name = name
        self._common = False
        self._speakers: list[str] = []
        self._in_speech = False
        self._directions = 0
        self._text: list[str] | None = None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "stage":
            self._directions += 1
        elif self._directions:
            return
        elif tag == "sp":
            self._speakers, self._in_speech, self._text = [], True, None
        elif tag in _IN_SPEECH and self._in_speech:
            self._text = []
        elif tag == "title" and not self._in_speech:
            common = attributes.get("type") == "common" and not self._common
            if common or not self.title:
                self._text, self._common = [], common or self._common

    def characters(self, data: str) -> None:
        if self._text is not None and not self._directions:
            self._text.append(data)

    def end(self, tag: str) -> None:
        if tag == "stage":
            self._directions -= 1
        elif self._directions:
            return
        elif tag == "sp":
            self._speakers, self._in_speech, self._text = [], False, None
        elif self._text is not None and tag in (_IN_SPEECH if self._in_speech else ("title",)):
            self._take(tag, " ".join("".join(self._text).split()))
            self._text = None

    def _take(self, tag: str, words: str) -> None:
        if tag == "title":
            self.title = words
        elif tag == "speaker" and words:
            self._speakers.append(words)
        elif tag == "l" and words and self._speakers:
            self.roles.setdefault(" & ".join(self._speakers), []).append(words)

    def refuse_entity(self, *_: object) -> NoReturn:
        raise DataError(f"{self._name}: defines XML entities, which no play needs; refused")
