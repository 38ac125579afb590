"""Words as a codec: text ↔ Tokens(T, K), by byte pairs that are merged from the most frequent on (arXiv:1508.07909).

The alphabet begins with the 256 bytes of UTF-8, so that no text in any script, and no emoji, is unknown:

    id 0 padding · 1 beginning · 2 end · then the bytes · then the merges          z = 1 w₁ … w_n 2 0 … 0

Text is brought to Unicode's NFC first, and to lower case if asked; decode(encode(s)) is then s itself for every s whose
tokens fit. A longer one is cut at a whole character, and a warning says so.

The vocabulary is learned from captions by `prepare`, which depends on the captions, not on their order. It lives in one
buffer of fixed size (the tokenizer's JSON, deflated), so that a file of weights is all that is needed to read again.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import warnings
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from sfumato.core.contracts import Batches, Codec
from sfumato.core.errors import Misfit, WeightsError
from sfumato.core.noise import Noise
from sfumato.core.space import Tokens

SPECIAL = ("<pad>", "<begin>", "<end>")
CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"  # CLIP's mark on a word's last piece
MOST = 2**24  # characters that an alphabet is learned from
REMEMBERED = 2**16  # texts whose tokens are kept
LONGEST = 24  # bytes of a merged token: in scripts without spaces whole sentences would become one word otherwise
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_VOCAB = 49408


@cache
def _bytes_in_order() -> list[str]:
    """The 256 letters that stand for bytes, in the order of GPT-2's and CLIP's alphabets: the bytes that print come
    first and stand for themselves; the others are the letters from code point 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printed] + [chr(256 + n) for n in range(256 - len(printed))]


@cache
def _byte_of() -> dict[str, int]:
    letters = _bytes_in_order()
    printed = [ord(letter) for letter in letters if ord(letter) < 256]
    others = [byte for byte in range(256) if byte not in set(printed)]
    return dict(zip(letters, printed + others))


def _some(texts: Iterable[str], most: int = MOST) -> list[str]:
    """All of the texts, or of too many those with the smallest hashes: whichever order they come in, the same ones."""
    kept: list[tuple[int, str]] = []  # a heap of (−hash, text)
    total = 0
    for text in texts:
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        heapq.heappush(kept, (-key, text))
        total += len(text)
        while total > most and len(kept) > 1:
            total -= len(heapq.heappop(kept)[1])
    return [text for _, text in kept]


class Words(Codec):
    """`encode` takes a list of B strings and gives (B, T) int64; `decode` goes back. `vocab` is an upper bound: few
    captions have fewer merges, and the letters left over are never used."""

    reads = "text"
    exact = True
    discrete = True
    kind = "bound"  # one of several spellings of a text is counted: P(text) ≥ P(tokens)
    space: Tokens
    store: Tensor

    def __init__(self, vocab: int = 4096, length: int = 32, lower: bool = False):
        super().__init__()
        if vocab < len(SPECIAL) + 256:
            raise ValueError(f"A vocabulary holds {len(SPECIAL) + 256} letters at least, for all bytes; not {vocab}.")
        if length < 3:
            raise ValueError(f"A text needs room for its beginning, its end and a word; {length} is too short.")
        self.lower = lower
        self.space = self.data = Tokens(length, vocab)
        self.register_buffer("store", torch.zeros(64 * vocab + 2**16, dtype=torch.uint8))
        self._built: tuple[tuple[int, int], Tokenizer] | None = None
        self._known: dict[str, tuple[int, ...]] = {}
        self._cut = False  # whether a text was, and it was said

    # ── the vocabulary ───────────────────────────────────────────────────────────────────────────────────────────────

    def _normalizer(self) -> normalizers.Normalizer:
        steps = [normalizers.NFC()] + ([normalizers.Lowercase(), normalizers.NFC()] if self.lower else [])
        return normalizers.Sequence(steps)

    def fit(self, captions: Iterable[str]) -> None:
        """Learns the merges, anew; of more than MOST characters, from texts taken by chance, that is, by their hash."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = self._normalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=self.space.vocab,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            max_token_length=LONGEST,
            show_progress=False,
        )
        tokenizer.train_from_iterator(sorted(_some(captions)), trainer)
        self._keep(tokenizer)

    def prepare(self, batches: Batches) -> None:
        """Learns the merges from the captions of the training set, once: a vocabulary that is there stays."""
        if not bool(self.store.any()):
            self.fit(caption for batch in batches() for caption in batch.get("text", ()))

    @classmethod
    def from_clip(cls, path: str | Path, length: int = 77) -> Words:
        """CLIP's vocabulary (arXiv:2103.00020) from its list of merges, `bpe_simple_vocab_16e6.txt.gz`. Its ids are the
        published ones: beginning 49406, end 49407; padding is 0, which is a letter too, so read texts up to the end."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines = file.read().split("\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} is not CLIP's list of merges: {error}") from error
        pairs = [line.split() for line in lines[1 : CLIP_VOCAB - 512 - 2 + 1] if line]
        if any(len(pair) != 2 for pair in pairs):
            raise WeightsError(f"{path} is not CLIP's list of merges: a line does not hold two parts.")
        merges = [(first, second) for first, second in pairs]
        letters = _bytes_in_order()
        entries = letters + [letter + WORD_END for letter in letters] + ["".join(merge) for merge in merges]
        entries += CLIP_SPECIAL
        words = cls(len(entries), length, lower=True)
        words.exact = False  # it forgets how words were spaced
        words._adopt(entries, merges)
        return words

    def _adopt(self, entries: list[str], merges: list[tuple[str, str]]) -> None:
        ids = {entry: at for at, entry in enumerate(entries)}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, end_of_word_suffix=WORD_END))
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
        self._keep(tokenizer)

    def _keep(self, tokenizer: Tokenizer) -> None:
        data = zlib.compress(tokenizer.to_str().encode(), 9)
        if len(data) > len(self.store):
            raise ValueError(f"The vocabulary takes {len(data)} bytes, more than the {len(self.store)} that are kept.")
        padded = data + bytes(len(self.store) - len(data))
        with torch.no_grad():
            self.store.copy_(torch.frombuffer(bytearray(padded), dtype=torch.uint8))

    @property
    def fitted(self) -> bool:
        """Whether there is a vocabulary. On the meta device, where a tensor has no values, there is none."""
        return self._built is not None or (self.store.device.type != "meta" and bool(self.store.any()))

    @property
    def tokenizer(self) -> Tokenizer:
        """Built from the buffer when it is first needed, and again when the buffer was filled anew."""
        version = (id(self.store), self.store._version)
        if self._built is None or self._built[0] != version:
            data = bytes(self.store.cpu().numpy())
            if not any(data):
                raise Misfit("This text codec has no vocabulary yet; call prepare() on captions, or load weights.")
            try:
                found = Tokenizer.from_str(zlib.decompressobj().decompress(data).decode())
            except Exception as error:  # tokenizers raises the bare class
                raise WeightsError(f"The vocabulary among the weights is damaged: {error}") from error
            found.encode_special_tokens = True  # a caption that says "<end>" means these five letters
            self._built, self._known = (version, found), {}
        return self._built[1]

    # ── the codec ────────────────────────────────────────────────────────────────────────────────────────────────────

    def clean(self, text: str) -> str:
        """The text as the codec sees it: what decode(encode(text)) gives back, if it fits."""
        normalizer = self.tokenizer.normalizer
        return normalizer.normalize_str(text) if normalizer is not None else text

    @property
    def marks(self) -> tuple[int, int, int]:
        """The ids of padding, beginning and end; those that `fit` gives where nothing was learned yet."""
        if not self.fitted:
            return 0, 1, 2
        begin, end = SPECIAL[1:] if self._padded() else CLIP_SPECIAL
        return 0, self._id(begin), self._id(end)

    def _id(self, mark: str) -> int:
        found = self.tokenizer.token_to_id(mark)
        if found is None:
            raise WeightsError(f"The vocabulary has no {mark}.")
        return found

    def _ids(self, text: str) -> tuple[int, ...]:
        _, begin, end = self.marks
        ids, room = self.tokenizer.encode(text).ids, self.space.shape[0] - 2
        if len(ids) > room:
            if not self._cut:  # of a set of long texts nobody wants to read a line each
                said = f"A text of {len(ids)} tokens was cut to the {room} that fit: {text[:60]!r}…"
                warnings.warn(f"{said} So will be others, without a word.", stacklevel=4)
            self._cut = True
            whole, ids = self._text(ids), ids[:room]
            while ids and not whole.startswith(self._text(ids)):  # the cut went through a character
                ids = ids[:-1]
        return (begin, *ids, end)

    def encode(self, x: Sequence[str]) -> Tensor:  # type: ignore[override]
        """B strings → (B, T) int64. Empty ones need no vocabulary: nothing can be asked of a net that knows no word."""
        (pad, begin, end), length = self.marks, self.space.shape[0]
        if not any(x) and not self.fitted:
            row = [begin, end, *[pad] * (length - 2)]
            return torch.tensor([row] * len(x), dtype=torch.int64, device=self.store.device).view(len(x), length)
        rows = []
        for text in x:
            if text not in self._known:
                if len(self._known) >= REMEMBERED:
                    self._known.pop(next(iter(self._known)))
                self._known[text] = self._ids(text)
            ids = self._known[text]
            rows.append((*ids, *([pad] * (length - len(ids)))))
        return torch.tensor(rows, dtype=torch.int64, device=self.store.device).view(len(rows), length)

    def mask(self, z: Tensor) -> Tensor:
        """(B, T) bool: True up to and including the first end."""
        ended = (z == self.marks[2]).cumsum(1)
        return (ended == 0) | ((ended == 1) & (z == self.marks[2]))

    def _text(self, ids: Iterable[int]) -> str:
        pieces = [self.tokenizer.id_to_token(at) or "" for at in ids]
        # a word's end reads as a space, which is the letter of byte 32
        joined = "".join(pieces).replace(WORD_END, chr(256 + 32)) if WORD_END in "".join(pieces) else "".join(pieces)
        table = _byte_of()
        return bytes(table[letter] for letter in joined if letter in table).decode("utf-8", errors="replace")

    def decode(self, z: Tensor) -> list[str]:  # type: ignore[override]
        """(B, T) → B strings: what stands between beginning and end. Bytes that are no UTF-8 read as �."""
        pad, begin, end = self.marks
        texts = []
        for row in z.tolist():
            row = row[: row.index(end)] if end in row else row
            row = row[1:] if row[:1] == [begin] else row
            text = self._text(at for at in row if at != begin and (at != pad or not self._padded()))
            texts.append(text if self._padded() else text.strip())
        return texts

    def _padded(self) -> bool:
        """Whether padding has a letter of its own; CLIP's has not."""
        return self.tokenizer.token_to_id(SPECIAL[0]) is not None

    def lift(self, x: Sequence[str], noise: Noise | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        z = self.encode(x)
        return z, torch.zeros(len(z), device=z.device)
