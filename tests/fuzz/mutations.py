"""What happens to files: bits, cards, pointers, ranges that are zero or missing, HDUs that are swapped or doubled."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import numpy as np

from .files import Place, RawBytes

BLOCK, CARD = 2880, 80

_SIZES = ("NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "BITPIX", "THEAP", "TFIELDS", "ZNAXIS", "ZNAXIS1", "ZNAXIS2")
_CODING = (
    "ZTILE1",
    "ZTILE2",
    "ZBITPIX",
    "ZCMPTYPE",
    "ZNAME1",
    "ZVAL1",
    "ZNAME2",
    "ZVAL2",
    "ZIMAGE",
    "TFORM1",
    "TTYPE1",
    "XTENSION",
)
_MEANING = (
    "BZERO",
    "BSCALE",
    "EXTNAME",
    "CHANNEL",
    "DATASEC",
    "DATASUM",
    "CHECKSUM",
    "TEMP1",
    "EXTEND",
    "SIMPLE",
    "OBSID",
    "EXPTIME",
)
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    32,
    64,
    257,
    999,
    1000,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    10**19,
    10**30,
    10**66,
)
_TEXTS = (
    "T", "F", "nan", "inf", "-inf", "1E400", "1.5", "32.0", "1,5", "", "/ ", "'", "''", "'abc", "'1PB(0)'", "'1QB(9)'", "'PB'", "'1PJ(3)'",
    "'999999999PB(1)'", "'0PB'", "'1PI(7)'", "'GZIP_1'", "'GZIP_2'", "'RICE_1'", "'HCOMPRESS_1'", "'PLIO_1'", "'NOCOMPRESS'", "'BLOCKSIZE'",
    "'BYTEPIX'", "'IMAGE'", "'BINTABLE'", "'Segment10'", "'Segment11'", "(1, 2)", "'\xe9\xff'", "'\0'", "NaN", "2019-10-28T19:29:40",
)  # fmt: skip
_POINTERS = (0, 1, -1, 3, 100, 2**16, 2**31 - 1, -(2**31))

Random = np.random.Generator


def mutated(raw: RawBytes, random: Random) -> tuple[bytes, str]:
    """Return a damaged copy of a file and the names of what was done to it, once or a few times."""
    content, done = bytearray(raw.content), []
    for _ in range(int(random.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
        change = _CHANGES[int(random.integers(len(_CHANGES)))]
        if content:
            change(content, raw, random)
            done.append(change.__name__.strip("_"))
    result = bytes(content)
    if random.random() < 0.15:
        result = gzip.compress(result, 1)
        done.append("gzip")
        if random.random() < 0.4:
            damaged = bytearray(result)
            flip_bits(damaged, raw, random)
            result = bytes(damaged)
            done.append("flip bits")
    return result, ", ".join(done)


def _hdu(raw: RawBytes, random: Random, *, first: int = 0) -> Place:
    return raw.places[int(random.integers(first, len(raw.places)))]


def _span(content: bytearray, raw: RawBytes, random: Random) -> tuple[int, int]:
    """Return a part of the file: all of it, or cards, or data of an HDU, or the table in front of its heap."""
    place = _hdu(raw, random)
    table = min(place.size, 26 * 8)
    spans = [
        (0, len(content)),
        (place.header, place.data),
        (place.data, place.data + place.size),
        (place.data, place.data + table),
    ]
    begin, end = spans[int(random.integers(len(spans)))]
    begin = min(begin, len(content) - 1)
    return begin, max(min(end, len(content)), begin + 1)


def flip_bits(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Flip one or several bits."""
    for _ in range(int(random.integers(1, 9))):
        content[int(random.integers(*_span(content, raw, random)))] ^= 1 << int(random.integers(8))


def set_bytes(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Overwrite a few bytes."""
    begin, end = _span(content, raw, random)
    start = int(random.integers(begin, end))
    more = random.integers(0, 256, int(random.integers(1, 65)), dtype=np.uint8).tobytes()[: end - start]
    content[start : start + len(more)] = more


def fill_range(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Fill a range with zeros, ones or blanks; its size stays."""
    begin, end = _span(content, raw, random)
    start = int(random.integers(begin, end))
    size = min(int(random.integers(1, 3 * BLOCK)), len(content) - start)
    content[start : start + size] = bytes([int(random.choice([0, 255, 32]))]) * size


def cut_range(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Take bytes or blocks out of the middle."""
    start = int(random.integers(*_span(content, raw, random)))
    size = int(random.integers(1, 4 * BLOCK))
    if random.random() < 0.5:
        start, size = start // BLOCK * BLOCK, max(size // BLOCK, 1) * BLOCK
    del content[start : start + size]


def cut_end(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Cut the end off: anywhere, at a block, or at the end of data."""
    place = _hdu(raw, random)
    start = int(random.integers(len(content)))
    ends = [start, start // BLOCK * BLOCK, place.data + place.size, place.data, place.end]
    del content[ends[int(random.integers(len(ends)))] :]


def insert(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Insert bytes or a block."""
    start = int(random.integers(*_span(content, raw, random)))
    size = BLOCK if random.random() < 0.5 else int(random.integers(1, 200))
    content[start:start] = bytes([int(random.choice([0, 32, 88]))]) * size


def append(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Append zeros, blanks, noise, or something like an HDU."""
    size = int(random.choice([1, 80, 512, BLOCK, 3 * BLOCK]))
    kinds = [bytes(size), b" " * size, random.bytes(size), b"XTENSION= 'IMAGE   '".ljust(size), b"END".ljust(size)]
    content += kinds[int(random.integers(len(kinds)))]


def swap_hdus(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Swap two extensions."""
    one, other = sorted(random.choice(np.arange(1, len(raw.places)), 2, replace=False).tolist())
    first, second = raw.places[one], raw.places[other]
    parts = (content[second.header : second.end], content[first.end : second.header], content[first.header : first.end])
    content[first.header : second.end] = b"".join(parts)


def swap_data(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Put the data of one segment below the header of another."""
    first, second = _hdu(raw, random, first=1), _hdu(raw, random, first=1)
    size = min(first.end - first.data, second.end - second.data)
    one, other = bytes(content[first.data : first.data + size]), bytes(content[second.data : second.data + size])
    content[first.data : first.data + len(other)] = other
    content[second.data : second.data + len(one)] = one


def double_hdu(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Repeat an HDU."""
    place, where = _hdu(raw, random), _hdu(raw, random)
    content[where.end : where.end] = content[place.header : place.end]


def drop_hdu(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Take an HDU out."""
    place = _hdu(raw, random)
    del content[place.header : place.end]


def _cards(content: bytearray, place: Place) -> list[int]:
    return list(range(place.header, min(place.data, len(content) - CARD + 1), CARD))


def set_card(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Give a card of an HDU a value that it should not have; where there is no such card, put it in."""
    place = _hdu(raw, random)
    names = (_SIZES, _CODING, _MEANING)[int(random.integers(3))]
    name = str(random.choice(names))
    number = int(random.choice(np.array(_NUMBERS, dtype=object))) * int(random.choice([1, 1, -1]))
    value = str(number) if random.random() < 0.6 else str(random.choice(_TEXTS))
    card = f"{name:<8}= {value:>20}".encode("latin-1").ljust(CARD)[:CARD]
    cards = _cards(content, place)
    if not cards:
        return
    same = [start for start in cards if content[start : start + 10] == f"{name:<8}= ".encode()]
    start = same[0] if same else cards[int(random.integers(min(len(cards), 12)))]
    content[start : start + CARD] = card


def spoil_card(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Blank, double or rename a card, or put rubbish into it."""
    cards = _cards(content, _hdu(raw, random))
    if not cards:
        return
    start, other = (cards[int(random.integers(len(cards)))] for _ in range(2))
    card = bytes(content[start : start + CARD])
    kinds = [
        b" " * CARD,
        bytes(CARD),
        random.bytes(CARD),
        card.lower(),
        b"HIERARCH " + card[:71],
        b"CONTINUE  'abc&'".ljust(CARD),
    ]
    content[start : start + CARD] = kinds[int(random.integers(len(kinds)))]
    if random.random() < 0.3:
        content[other : other + CARD] = card


def set_pointer(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Change an entry of the table of an HDU: the size or place of a tile."""
    place = _hdu(raw, random, first=1)
    width = int(random.choice([4, 8]))
    entries = min(place.size, 26 * 8) // width
    start = place.data + width * int(random.integers(max(entries, 1)))
    content[start : start + width] = int(random.choice(_POINTERS)).to_bytes(width, "big", signed=True)


def copy_pointer(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Let two tiles have one place, or move all of them."""
    place = _hdu(raw, random, first=1)
    one, other = (place.data + 8 * int(random.integers(26)) for _ in range(2))
    content[other : other + 8] = content[one : one + 8]


def lengthen_header(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Put up to several hundred blocks of comments into a header."""
    place = _hdu(raw, random)
    blocks = int(random.choice([1, 10, 400, 600]))
    content[place.header + CARD : place.header + CARD] = b"COMMENT END".ljust(CARD) * (blocks * BLOCK // CARD)


def many_hdus(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Append tiny HDUs by the thousand."""
    cards = (
        b"XTENSION= 'IMAGE   '",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
        b"PCOUNT  =                    0",
    )
    header = b"".join(card.ljust(CARD) for card in (*cards, b"GCOUNT  =                    1", b"END")).ljust(BLOCK)
    content += header * int(random.choice([10, 1200]))


def spoil_end(content: bytearray, raw: RawBytes, random: Random) -> None:
    """Write the END card of a header as it should not be, or put something behind it."""
    place = _hdu(raw, random)
    start = content.find(b"END".ljust(CARD), place.header)
    if start < 0:
        return
    kinds = [b"END".ljust(CARD, b"\0"), b"end".ljust(CARD), b"ENDE".ljust(CARD), b" " * CARD, b"END     = 3".ljust(CARD)]
    content[start : start + CARD] = kinds[int(random.integers(len(kinds)))]
    if random.random() < 0.5 and place.data > start + CARD:
        content[start + CARD : place.data] = bytes([int(random.choice([0, 88]))]) * (place.data - start - CARD)


Change = Callable[[bytearray, RawBytes, Random], None]
_CHANGES: tuple[Change, ...] = (
    flip_bits, flip_bits, set_bytes, fill_range, cut_range, cut_end, insert, append, swap_hdus, swap_data, double_hdu, drop_hdu, set_card,
    set_card, set_card, set_card, spoil_card, set_pointer, set_pointer, copy_pointer, lengthen_header, many_hdus, spoil_end,
)  # fmt: skip
