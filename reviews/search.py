"""Free-text search over notes: which cases have a note that says it, and the passage where it does.

What is searched for is the patient's too, so it stands in no address, log or event: a search is sent by POST, kept in the
session, which ends within a quarter of an hour of idleness, and named in addresses by a random key.

Words are compared by their stem, without accents, in the protocol's language, through the indexes of triage 0007. Two
costs decide how: reading a note's words anew takes far longer (a third of a millisecond) than PostgreSQL assumes, and an
index over words knows no order. So the head of the list is looked at first, which answers for words that stand everywhere;
then the index is asked for every note, as long as they are FEW; otherwise the list is walked in growing steps, each one
met with the index. The index does not know which words stand side by side: notes that have the words of a phrase are read
again for it, at most about CHECKED of them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_noop

from triage.models import Case, Note, Prediction, Protocol

SESSION = "searches"
KEPT = 20
STEP, GROWTH = 40, 5
FEW, CHECKED = 1000, 2000
BEFORE, AFTER = 70, 130
OPERATOR_COST = 1
ASKED = "SELECT asked::text::tsquery::text, querytree(asked) FROM websearch_to_tsquery('{}', %s) AS asked"
UNREAD = gettext_noop("The search could not be read. Type fewer words or signs.")
EVERYWHERE = gettext_noop("Only words that stand everywhere were left to search for. Add a rarer one.")
CONFIGURATIONS = {"es": "note_es", "en": "note_en"}
QUOTES = str.maketrans(dict.fromkeys("«»“”„", '"'))
WORD = re.compile(r"\w+(?:[.,:/-]\w+)+|\w+")
NEIGHBOURS = re.compile(r"<(?:-|\d+)>")
QUOTED = re.compile(r"'((?:[^']|'')+)'")


def keep(session: MutableMapping[str, Any], terms: str) -> str:
    """The key under which the session keeps what is searched for; the last KEPT searches stay."""
    kept: dict[str, str] = session.get(SESSION, {})
    key = next((known for known, said in kept.items() if said == terms), None) or secrets.token_urlsafe(6)
    kept = {**{known: said for known, said in kept.items() if known != key}, key: terms}
    session[SESSION] = dict(list(kept.items())[-KEPT:])
    return key


def terms(session: MutableMapping[str, Any], key: str) -> str:
    """What was searched for under the key; empty when the session does not know it."""
    return str(session.get(SESSION, {}).get(key, ""))


def named(session: MutableMapping[str, Any], key: str, protocol: Protocol) -> Search | None:
    """The search kept under a key, where the session knows it and it looks for anything."""
    said = terms(session, key) if key else ""
    search = Search(protocol, said) if said else None
    return search if search and not search.empty else None


class Search:
    """One search in the notes of a protocol. Called with ordered predictions, it gives the first ones it finds.

    ``empty``: nothing is left to look for once the words that stand everywhere (de, la) are dropped, or PostgreSQL could not
    read it; ``refusal`` says which (a gettext id), empty where there is something to look for. ``cut``: it stopped
    before the end of the list, because too many notes have the words of a phrase without the phrase.
    """

    def __init__(self, protocol: Protocol, said: str) -> None:
        self.said = said
        self.configuration = CONFIGURATIONS.get(protocol.language[:2], CONFIGURATIONS["en"])
        self.refusal = ""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(ASKED.format(self.configuration), [said.translate(QUOTES)])
                exact, wanted = cursor.fetchone()
            self.refusal = "" if exact else EVERYWHERE
        except DatabaseError:
            exact, wanted, self.refusal = "", "", UNREAD
        self.empty, self.cut = not exact, False
        self.lexemes = [lexeme.replace("''", "'") for lexeme in QUOTED.findall(wanted)]
        self._loose = exact if "!" in exact else NEIGHBOURS.sub("&", exact)  # within «!» looser is stricter
        self._exact = exact if exact != self._loose else ""
        self._checked = 0
        self._saying: set[int] = set()
        self._every: list[tuple[int, int]] | None = None

    def __call__(self, rows: QuerySet[Prediction], room: int) -> list[int]:
        """The ids of the first ``room`` of the ordered predictions that read a note which says it."""
        found: list[int] = []
        for candidates in () if self.empty else self._candidates(rows.values_list("pk", flat=True)):
            found += self._sure(candidates)
            if len(found) >= room or self.cut:
                break
        return found[:room]

    def _candidates(self, rows: QuerySet[Any, Any]) -> Iterator[dict[int, set[int]]]:
        """Prediction → its notes that have the words, in the order of the rows, some at a time."""
        start, size = 0, STEP
        while batch := _with_notes(list(rows[start : start + size])):
            yield _having(batch, self._notes(self._loose, [note for _, notes in batch for note in notes]))
            if start == 0 and len(every := self._all()) <= FEW:
                yield from self._among(rows, every, {pk for pk, _ in batch})
                return
            start, size = start + size, size * GROWTH

    def _among(
        self, rows: QuerySet[Any, Any], every: list[tuple[int, int]], seen: set[int]
    ) -> Iterator[dict[int, set[int]]]:
        """The same where all notes that have the words are known, each with its patient."""
        cases = Case.objects.filter(patient__in=[patient for _, patient in every]).values_list(
            "pk", flat=True
        )
        left = _with_notes([pk for pk in rows.filter(case__in=list(cases)) if pk not in seen])
        for i in range(0, len(left), STEP):
            yield _having(left[i : i + STEP], {note for note, _ in every})

    def _sure(self, candidates: dict[int, set[int]]) -> list[int]:
        """Those of the candidates in which the words stand as they were asked for."""
        having = {note for found in candidates.values() for note in found}
        if self._exact:
            self._checked += len(having)
            self.cut = self._checked > CHECKED
            having = self._notes(self._exact, list(having))
        self._saying |= having
        return [pk for pk, found in candidates.items() if not having.isdisjoint(found)]

    def _notes(self, query: str, notes: list[int]) -> set[int]:
        return {note for note, _ in self._matching("id = ANY(%s) AND", "", notes, query)} if notes else set()

    def _all(self) -> list[tuple[int, int]]:
        """The notes of every site that have the words, with their patients, up to FEW + 1."""
        if self._every is None:
            self._every = self._matching("", f"LIMIT {FEW + 1}", self._loose)
        return self._every

    def _matching(self, where: str, limit: str, *values: Any) -> list[tuple[int, int]]:
        """(note, patient). Reading a note's words anew is said to be dear, as it is, while this is planned."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                SET LOCAL cpu_operator_cost = {OPERATOR_COST};
                SELECT id, patient_id FROM triage_note
                WHERE {where} to_tsvector('{self.configuration}', left(text, 200000)) @@ %s::tsquery {limit};
                SET LOCAL cpu_operator_cost TO DEFAULT
                """,
                values,
            )
            cursor.nextset()
            return cursor.fetchall()

    def forms(self, texts: Iterable[str]) -> set[str]:
        """The words of the texts that are those searched for, as they are written there."""
        written = {word for text in texts for token in WORD.findall(text) for word in (token, *_parts(token))}
        starts = {lexeme[:2] for lexeme in self.lexemes}
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                SELECT word FROM unnest(%s::text[]) AS word WHERE left(unaccent(lower(word)), 2) = ANY(%s)
                AND tsvector_to_array(to_tsvector('{self.configuration}', word)) && %s
                """,
                [sorted(written), sorted(starts), self.lexemes],
            )
            return {row[0] for row in cursor.fetchall()}

    def passages(self, rows: Iterable[tuple[int, list[int]]]) -> dict[int, SafeString]:
        """Prediction → the passage of its latest note that says it, the words marked.

        rows: predictions this search found, each with the notes it read.
        """
        latest = {pk: next((n for n in reversed(notes) if n in self._saying), None) for pk, notes in rows}
        texts = dict(Note.objects.filter(pk__in=filter(None, latest.values())).values_list("pk", "text"))
        forms = self.forms(texts.values())
        return {pk: passage(texts[note], forms) for pk, note in latest.items() if note in texts}


def _with_notes(predictions: list[int]) -> list[tuple[int, list[int]]]:
    """Each with the notes it read: looked up apart, so that the order is read from its index alone."""
    notes = dict(Prediction.objects.filter(pk__in=predictions).values_list("pk", "note_ids"))
    return [(pk, notes[pk]) for pk in predictions]


def _having(rows: Iterable[tuple[int, list[int]]], notes: set[int]) -> dict[int, set[int]]:
    return {pk: notes.intersection(read) for pk, read in rows if not notes.isdisjoint(read)}


def _parts(token: str) -> list[str]:
    parts = re.findall(r"\w+", token)
    return parts if len(parts) > 1 else []


def passage(text: str, forms: Iterable[str]) -> SafeString:
    """The text around the first of the words, each of them marked; its beginning where none stands in it."""
    words = _any_of(forms)
    first = words.search(text) if words else None
    start, end = _window(text, first.start() if first else 0)
    shown = text[start:end]
    pieces, place = [], 0
    for word in words.finditer(shown) if words else ():
        pieces += [("{}", shown[place : word.start()]), ("<mark>{}</mark>", word[0])]
        place = word.end()
    marked = format_html_join("", "{}", ((format_html(form, piece),) for form, piece in pieces))
    dots = ("… " if start else "", " …" if end < len(text) else "")
    return format_html("{}{}{}{}", dots[0], marked, shown[place:], dots[1])


def places(text: str, forms: Iterable[str]) -> list[tuple[int, int]]:
    """Where the words stand in a text: code points [start, end), from its beginning."""
    words = _any_of(forms)
    return [found.span() for found in words.finditer(text)] if words else []


def _any_of(forms: Iterable[str]) -> re.Pattern[str] | None:
    alternatives = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)") if alternatives else None


def _window(text: str, first: int) -> tuple[int, int]:
    """Whole words around a place of the text."""
    start, end = max(first - BEFORE, 0), min(first + AFTER, len(text))
    if start and (blank := re.search(r"\s\S", text[start:first])):
        start += blank.start() + 1
    if end < len(text) and (blank := text.rfind(" ", first, end)) > first:
        end = blank
    return start, end
