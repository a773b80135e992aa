"""WordPiece against its algorithm in plain Python, data sets of texts, and TinyBERT that learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun import data, losses, optim
from homespun.data.text import SPECIAL, masked_out
from homespun.zoo.tinybert import Size

WORDS = [
    "the",
    "cat",
    "dog",
    "good",
    "bad",
    "film",
    "is",
    "very",
    "un",
    "##aff",
    "##able",
    ",",
    ".",
    "!",
    "猫",
    "naive",
]
VOCABULARY = [*SPECIAL, *WORDS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def pieces(word: str) -> list[str]:
    """Greedy, longest piece first; a word that can't be put together is unknown as a whole."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in VOCABULARY), None)
        if end is None:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


def tokens_of(tokenizer: data.WordPiece, ids: np.ndarray) -> list[str]:
    return [tokenizer.tokens[i] for i in ids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, UNAFFABLE!", ["the", "cat", ",", "un", "##aff", "##able", "!"]),
        ("Naïve 猫猫.", ["naive", "猫", "猫", "."]),
        ("dogs 7", ["dog", "##s", "[UNK]"]),
        ("", []),
        (" \t\n\u00a0", []),
        ("a" * 101 + " cat", ["[UNK]", "cat"]),  # more than 100 letters are no word
        ("the [MASK] is good", ["the", "[MASK]", "is", "good"]),
        ("un\u00adable\u0000", ["un", "##able"]),  # what can't be seen is left out
    ],
)
def test_text_becomes_tokens(vocabulary: Path, text: str, expected: list[str]) -> None:
    tokenizer = data.WordPiece(vocabulary, length=10)
    (ids,), (mask,), (types,) = tokenizer([text])
    wanted = ["[CLS]", *expected, "[SEP]"]
    assert tokens_of(tokenizer, ids) == wanted + ["[PAD]"] * (10 - len(wanted))
    assert mask.tolist() == [1] * len(wanted) + [0] * (10 - len(wanted))
    assert not types.any() and ids.dtype == mask.dtype == types.dtype == np.int32


def test_capitals_and_accents_stay_where_the_vocabulary_has_them(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "Café", "cafe", "A"]), encoding="utf-8")
    cased = data.WordPiece(tmp_path / "vocab.txt", length=5, lowercase=False)
    assert tokens_of(cased, cased(["Café CAFE A"])[0][0]) == ["[CLS]", "Café", "[UNK]", "A", "[SEP]"]
    uncased = data.WordPiece(tmp_path / "vocab.txt", length=5)
    assert tokens_of(uncased, uncased(["Café CAFE A"])[0][0]) == ["[CLS]", "cafe", "cafe", "[UNK]", "[SEP]"]


def test_pairs_long_texts_and_the_way_back(vocabulary: Path) -> None:
    tokenizer = data.WordPiece(vocabulary, length=8)
    ids, mask, types = tokenizer([("a cat", "the dog"), ("a cat is very good", "the dog is very bad")])
    assert tokens_of(tokenizer, ids[0]) == ["[CLS]", "a", "cat", "[SEP]", "the", "dog", "[SEP]", "[PAD]"]
    assert types[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert mask[1].all() and tokens_of(tokenizer, ids[1]).count("[SEP]") == 2
    assert tokenizer.text(tokenizer(["an unaffable cat"])[0][0]) == "an unaffable cat"


@given(st.lists(st.text("abcxyz", min_size=1, max_size=9), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_words_are_split_as_the_algorithm_says(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY), encoding="utf-8")
    tokenizer = data.WordPiece(path, length=64)
    (ids,), (mask,), _ = tokenizer([" ".join(words)])
    assert tokens_of(tokenizer, ids[mask == 1])[1:-1] == [p for w in words for p in pieces(w)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the\ncat\n", r"\[PAD\].*missing"),
        (b"\xff\xfe", "not UTF-8"),
        ("\n".join([*SPECIAL, "a", "a"]).encode(), "twice"),
    ],
)
def test_files_that_are_no_vocabulary_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(hs.FormatError, match=message):
        data.WordPiece(tmp_path / "vocab.txt")


def test_wrong_options_are_refused(vocabulary: Path) -> None:
    tokenizer = data.WordPiece(vocabulary)
    for wrong in (lambda: data.WordPiece(vocabulary, length=2), lambda: tokenizer("a cat")):
        with pytest.raises(hs.OptionError):
            wrong()
    with pytest.raises(hs.OptionError, match="share"):
        data.MaskedTexts(["a"], tokenizer, masked=0.0)
    with pytest.raises(hs.ShapeError, match="2 texts have 1 labels"):
        data.Texts(["a", "the"], [0], tokenizer)


def test_fifteen_of_a_hundred_words_are_masked_as_bert_does() -> None:
    ids = np.concatenate([[2], np.random.default_rng(0).integers(5, 1000, 20_000), [3], np.zeros(50, np.int64)])
    found, targets = masked_out(ids, 0.15, np.arange(5), np.arange(5, 1000), 4, np.random.default_rng(1))
    picked = targets != -100
    assert picked.sum() == 3000 and not picked[ids < 5].any()
    np.testing.assert_array_equal(found[~picked], ids[~picked])
    np.testing.assert_array_equal(targets[picked], ids[picked])
    shares = [(found[picked] == 4).mean(), (found[picked] == ids[picked]).mean()]
    assert shares == pytest.approx([0.8, 0.1], abs=0.02)
    assert found.min() >= 0 and not (found[picked] < 4).any()


def test_a_text_of_special_tokens_has_nothing_to_guess() -> None:
    ids = np.array([2, 3, 0, 0])
    found, targets = masked_out(ids, 0.15, np.arange(5), np.arange(5, 10), 4, np.random.default_rng(0))
    np.testing.assert_array_equal(found, ids)
    assert (targets == -100).all()
    _, targets = masked_out(np.array([2, 7, 3]), 0.15, np.arange(5), np.arange(5, 10), 4, np.random.default_rng(0))
    assert targets.tolist() == [-100, 7, -100]  # of a short text one word at least


def test_what_is_masked_follows_from_seed_epoch_and_text_alone(vocabulary: Path) -> None:
    tokenizer = data.WordPiece(vocabulary, length=16)
    texts = ["the cat is very good", "a bad film, a good dog", "the dog is bad", "a film", "dogs"]

    def epoch_of(number: int, workers: int, seed: int = 0, start: int = 0) -> list[np.ndarray]:
        masked = data.MaskedTexts(texts, tokenizer, seed=seed, workers=workers)
        return [np.concatenate([x[0], y], axis=1) for x, y in masked.batches(epoch=number, start=start, size=2)]

    first = epoch_of(0, 0)
    for one, other in zip(first[1:], epoch_of(0, 3, start=1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((a != b).any() for a, b in zip(first, epoch_of(1, 0), strict=True))
    assert any((a != b).any() for a, b in zip(first, epoch_of(0, 0, seed=1), strict=True))
    masked = data.MaskedTexts(texts, tokenizer)
    for (x, y), (other_x, other_y) in zip(*(masked.evaluation_batches(size=2) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(x[0], other_x[0])
        np.testing.assert_array_equal(y, other_y)
        assert ((y != -100).sum(axis=1) >= 1).all()


def tinybert(tokenizer: data.WordPiece, head: str) -> hs.Graph:
    options = {"layers": 1, "size": Size(16, 2, 32), "sequence": tokenizer.length, "vocabulary": len(tokenizer)}
    return hs.zoo.tinybert(head=head, dropout=0.0, **options)  # type: ignore[arg-type]


def test_tinybert_learns_to_tell_texts_apart(vocabulary: Path) -> None:
    tokenizer = data.WordPiece(vocabulary, length=12)
    texts = [f"{the} {thing} is {very}{kind}" for the in ("the", "a") for thing in ("cat", "film", "dog")
             for very in ("", "very ") for kind in ("good", "bad")]  # fmt: skip
    labelled = data.Texts(texts, [int(t.endswith("good")) for t in texts], tokenizer)
    train, held = labelled.split(0.25)
    trainer = hs.Trainer(tinybert(tokenizer, "classification"), losses.CrossEntropy(), optim.Adam(0.01), batch=6)
    trainer.fit(train, epochs=15)
    assert trainer.evaluate(held)["accuracy"] == 1.0


def test_tinybert_learns_to_guess_words(vocabulary: Path) -> None:
    tokenizer = data.WordPiece(vocabulary, length=10)
    masked = data.MaskedTexts(["the cat is very good", "a dog is very bad"] * 8, tokenizer, masked=0.3)
    loss = losses.CrossEntropy(ignore=-100)
    trainer = hs.Trainer(tinybert(tokenizer, "masked_lm"), loss, optim.Adam(0.01), batch=8)
    before = trainer.evaluate(masked, metrics=[])["loss"]
    trainer.fit(masked, epochs=30)
    assert trainer.evaluate(masked, metrics=[])["loss"] < 0.3 * before
