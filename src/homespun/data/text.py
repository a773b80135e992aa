"""Text as TinyBERT reads it: WordPiece tokens, and data sets of sentences with labels or with words masked out.

Batches hold ([ids, mask, types], y), what `Trainer.fit` gives to a network of `zoo.tinybert`. Needs the package
`tokenizers` (`pip install 'homespun[text]'`), which is Hugging Face's and never reaches for the network here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homespun.data.augment import Random
from homespun.data.dataset import Batch, DataSet, Sample
from homespun.data.order import chance
from homespun.errors import FormatError, MissingPackageError, OptionError, ShapeError
from homespun.graph import Array

PAD, UNKNOWN, FIRST, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, FIRST, SEPARATOR, MASK)
IGNORED = -100
#: What chance is for when words are masked where no epoch is, in evaluation.
_EVALUATION = 3
Text = str | tuple[str, str]


class WordPiece:
    """Splits text into the pieces of a vocabulary, longest first (Wu et al. 2016, section 4.1; Devlin et al. 2019).

    `vocabulary`: a `vocab.txt`, one token a line, as BERT's and TinyBERT's weights come with. `length`: tokens of a
    text, [CLS] and [SEP] included; longer ones are cut, shorter ones filled up. `lowercase` also drops accents, as
    "uncased" models want. Raises `FormatError` for a file that is no vocabulary.
    """

    def __init__(self, vocabulary: str | Path, *, length: int = 128, lowercase: bool = True) -> None:
        if length < 3:
            raise OptionError(f"length is {length}; a text needs at least 3 tokens: [CLS], one of its own, [SEP]")
        self.tokens = _read_vocabulary(Path(vocabulary))
        self.length, self.lowercase = length, lowercase
        self.numbers = {token: i for i, token in enumerate(self.tokens)}
        self._tokenizer = _tokenizer(self.numbers, length, lowercase)

    def __len__(self) -> int:
        """Tokens of the vocabulary."""
        return len(self.tokens)

    def __call__(self, texts: Sequence[Text]) -> tuple[Array, Array, Array]:
        """(ids, mask, types) of N texts or pairs of texts, (N, length) int32 each: the inputs of `zoo.tinybert`.

        `mask` is 1 for tokens and 0 for what fills up, `types` 1 for the second text of a pair with its [SEP].
        """
        if isinstance(texts, str):
            raise OptionError("texts is a single string; pass a list of texts: tokenize([text])")
        found = self._tokenizer.encode_batch(list(texts))
        rows = ([e.ids for e in found], [e.attention_mask for e in found], [e.type_ids for e in found])
        ids, mask, types = (np.asarray(r, np.int32).reshape(len(found), self.length) for r in rows)
        return ids, mask, types

    def text(self, ids: Sequence[int] | Array) -> str:
        """Tokens put together again, special ones left out."""
        return str(self._tokenizer.decode([int(i) for i in ids]))


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    try:
        tokens = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise FormatError(
            f"{path}: not UTF-8 ({e.reason} at byte {e.start}); a vocabulary is text, a token a line"
        ) from e
    missing = [t for t in SPECIAL if t not in tokens]
    if missing:
        raise FormatError(f"{path}: {', '.join(missing)} missing; a WordPiece vocabulary has {', '.join(SPECIAL)}")
    if len(set(tokens)) != len(tokens):
        twice = next(t for i, t in enumerate(tokens) if t in set(tokens[:i]))
        raise FormatError(f"{path}: {twice!r} is in it twice")
    return tuple(tokens)


def _tokenizer(numbers: dict[str, int], length: int, lowercase: bool) -> Any:
    try:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    except ImportError as e:
        raise MissingPackageError("text needs the package tokenizers: pip install 'homespun[text]'") from e
    made = Tokenizer(models.WordPiece(numbers, unk_token=UNKNOWN, max_input_chars_per_word=100))
    made.add_special_tokens(list(SPECIAL))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (SEPARATOR, numbers[SEPARATOR]), (FIRST, numbers[FIRST])
    made.post_processor = processors.BertProcessing(*ends)
    made.decoder = decoders.WordPiece()
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=numbers[PAD], pad_token=PAD)
    return made


class _Tokenized(DataSet):
    """Texts as numbers; a sample is (ids, mask, types) in one array (3, T)."""

    def __init__(self, texts: Sequence[Text], tokenizer: WordPiece, options: dict[str, Any]) -> None:
        if "augment" in options:
            raise OptionError("texts are not augmented: leave `augment` out")
        self.tokenizer = tokenizer
        self.tokens = np.stack(tokenizer(texts), axis=1)
        super().__init__(len(self.tokens), **options)

    def batches(self, *, epoch: int = 0, start: int = 0, size: int) -> Iterator[Any]:
        """([ids, mask, types], y) batches of an epoch, from batch `start` on."""
        yield from map(_inputs_apart, super().batches(epoch=epoch, start=start, size=size))

    def evaluation_batches(self, *, size: int) -> Iterator[Any]:
        """All samples in their own order."""
        yield from map(_inputs_apart, super().evaluation_batches(size=size))


def _inputs_apart(batch: Batch) -> tuple[list[Array], Array]:
    x, y = batch
    return [np.ascontiguousarray(x[:, i]) for i in range(3)], y


class Texts(_Tokenized):
    """Texts (or pairs of texts) with a label each, to classify. Options as `DataSet`, without augmentation.

    Raises `ShapeError` if there are more or fewer labels than texts.
    """

    def __init__(
        self, texts: Sequence[Text], labels: Sequence[int] | Array, tokenizer: WordPiece, **options: Any
    ) -> None:
        self.labels = np.asarray(labels)
        if len(texts) != len(self.labels):
            raise ShapeError(f"{len(texts)} texts have {len(self.labels)} labels")
        super().__init__(texts, tokenizer, options)

    def read(self, number: int, random: Random | None) -> Sample | None:
        """(ids, mask, types) and the label."""
        return self.tokens[number], self.labels[number]

    def label(self, number: int) -> int | None:
        """The label, where labels are numbers of classes."""
        return int(self.labels[number]) if np.issubdtype(self.labels.dtype, np.integer) else None


class MaskedTexts(_Tokenized):
    """Texts with words to guess, for `CrossEntropy(ignore=-100)` on a masked language model.

    Of each text's tokens a share `masked` is picked, one at least: four of five become [MASK], one of ten a token drawn
    from the vocabulary, one of ten stays (Devlin et al. 2019, section 3.1). Targets are those tokens, -100 elsewhere.
    Other words in each epoch, always the same in evaluation; a function of seed, epoch and text alone.
    """

    def __init__(self, texts: Sequence[Text], tokenizer: WordPiece, *, masked: float = 0.15, **options: Any) -> None:
        if not 0.0 < masked < 1.0:
            raise OptionError(f"masked is {masked}; it is a share of the tokens between 0 and 1")
        self.masked = masked
        self._special = np.array([tokenizer.numbers[t] for t in SPECIAL])
        self._plain = np.setdiff1d(np.arange(len(tokenizer)), self._special)
        super().__init__(texts, tokenizer, options)

    def read(self, number: int, random: Random | None) -> Sample | None:
        """(ids, mask, types), words masked out, and the words."""
        tokens = self.tokens[number].copy()
        random = random or chance(self.seed, 0, number, _EVALUATION)
        ids, targets = masked_out(tokens[0], self.masked, self._special, self._plain, self._mask_id, random)
        tokens[0] = ids
        return tokens, targets

    @property
    def _mask_id(self) -> int:
        return self.tokenizer.numbers[MASK]


def masked_out(
    ids: Array, share: float, special: Array, plain: Array, mask: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """(ids with some tokens masked out, targets): `special` are never picked, `plain` are what tokens may be exchanged
    for."""
    places = np.flatnonzero(~np.isin(ids, special))
    targets = np.full(ids.shape, IGNORED, np.int64)
    found = ids.copy()
    if places.size == 0:
        return found, targets
    picked = random.permutation(places)[: max(1, round(share * places.size))]
    targets[picked] = ids[picked]
    kinds, others = random.random(picked.size), plain[random.integers(0, plain.size, picked.size)]
    found[picked] = np.where(kinds < 0.8, mask, np.where(kinds < 0.9, others, ids[picked]))
    return found, targets
