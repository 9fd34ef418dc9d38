"""Views: each different, the same on every machine, in any language, close to their text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrd_harness.capture.augment import SEED, views

FOX = "The quick brown fox jumps over the lazy dog."
TEXTS = {
    "English": FOX,
    "capitals": "WHAT A FINE DAY",
    "German": "Süße Äpfel fielen über die Straße, müde und weiß.",
    "accents apart": "e\u0301te\u0301 a\u0300 la plage",
    "Chinese": "今天天气很好，我们去公园吧",
    "Japanese": "東京は大きい都市です。",
    "Korean": "한국어는 재미있습니다",
    "Arabic": "مرحبا بالعالم كيف حالك",
    "Hebrew, pointed": "שָׁלוֹם עוֹלָם",
    "Hindi": "नमस्ते दुनिया",
    "Thai": "สวัสดีชาวโลก",
    "emoji": "👨\u200d👩\u200d👧 family 👍🏽!",
    "emoji only": "👨\u200d👩\u200d👧",
    "one letter": "aaa",
    "one sign": "你你你",
    "digits": "111",
    "punctuation": "?!.",
    "blanks": "   ",
    "lines": "\n\n\n",
    "one letter among blanks": "  a  ",
    "one letter among signs": "...a...",
    "accents alone": "\u0301\u0301\u0301",
    "joiners alone": "\u200d\u200d\u200d",
    "lone surrogates": "\ud83d \ude00x",
    "zero bytes": "a\0b\0",
    "Turkish dotted I": "İİİ",
}


def plain(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_view_is_another_or_the_text(text: str) -> None:
    made = views(text, 64)
    assert len(made) == 64
    assert len({text, *made}) == 65
    assert "" not in made
    if text.strip():
        assert len({plain(view) for view in [text, *made]} | {""}) == 66


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=()), min_size=3, max_size=200), st.integers())
@example("\x1c\x1c\x1c", 0)
@example("AaAaA", 0)
@example(" \u0301 ", 0)
def test_any_text_has_views_that_differ(text: str, seed: int) -> None:
    made = views(text, 10, seed)
    assert views(text, 4, seed) == made[:4]  # fewer are the first of more
    assert len({text, *made}) == 11
    if text.strip():
        assert len({plain(view) for view in [text, *made]} | {""}) == 12


@pytest.mark.parametrize("text", ["", "a", "OK", "你好", "  "])
def test_a_text_that_is_too_short_stays_as_it_is(text: str) -> None:
    assert views(text, 3) == [text] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            FOX,
            [
                "The quikc brown fox jumps over the lazy do.",
                "The auick brown fox jumps oveTr the lazy doog.",
                "The quick brown fox numrps over the lazy dog.",
            ],
        ),
        ("aaa", ["aa", "aaaa", "aaq"]),
        (TEXTS["Chinese"], ["今天天很气好，我们去公园吧", "今天天气很好我，我们去公园吧"]),
        (TEXTS["emoji"], ["👨\u200d👩\u200d👧 afmily 👍🏽!"]),
    ],
)
def test_the_same_on_every_machine(text: str, expected: list[str]) -> None:
    assert views(text, len(expected)) == expected
    assert views(text, len(expected), seed=42) == expected
    assert SEED == 42


def test_all_kinds_of_mistake_are_made() -> None:
    kinds = set()
    word = "strength"
    for view in views(f"{word}s", 64, seed=3) + views(word, 64):
        kinds.add("split" if " " in view else "")
        kinds.add("deleted" if len(view) == 7 and " " not in view else "")
        kinds.add("swapped" if sorted(view) == sorted(word) else "")
        kinds.add("inserted" if len(view) == 9 and set(view) == set(word) else "")
        kinds.add("neighbour" if len(view) == 8 and not set(view) <= set(word) else "")
        kinds.add("replaced" if len(view) == 8 and set(view) <= set(word) else "")
    assert kinds - {""} == {"split", "deleted", "swapped", "inserted", "neighbour", "replaced"}


def test_script_and_accents_stay() -> None:
    for name in ("Chinese", "Arabic", "Hindi", "Korean", "Thai"):
        assert set("".join(views(TEXTS[name], 32))) <= {*TEXTS[name], " "}
    for view in views(TEXTS["accents apart"], 64):
        for before, mark in zip(" " + view, view, strict=False):
            assert not unicodedata.combining(mark) or before.isalpha()
