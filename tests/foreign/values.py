"""Random values of a column's type, as PostgreSQL's input text. None: this type is not known here."""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass

_WORDS = ("alpha", "Beta", "größe", "日本", "x y", "it's", "a,b", "🙂", "naïve", "0", "")


@dataclass(frozen=True)
class Kind:
    """A column's type, domains followed down. element: of an array. modifier: pg_attribute.atttypmod, -1 for none."""

    name: str
    category: str = "b"
    modifier: int = -1
    labels: tuple[str, ...] = ()
    element: Kind | None = None


def value(rng: random.Random, kind: Kind) -> str | None:
    """The text of a random value."""
    if kind.element is not None:
        return _array(rng, kind.element)
    if kind.labels:
        return rng.choice(kind.labels)
    made = _MAKERS.get(kind.name)
    return made(rng, kind.modifier) if made is not None else None


def _array(rng: random.Random, element: Kind) -> str | None:
    texts = [value(rng, element) for _ in range(rng.randint(0, 4))]
    if None in texts:
        return None
    quoted = ['"' + str(t).replace("\\", "\\\\").replace('"', '\\"') + '"' for t in texts]
    if quoted and rng.random() < 0.2:
        quoted[0] = "NULL"
    return "{" + ",".join(quoted) + "}"


def _text(rng: random.Random, modifier: int) -> str:
    text = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(0, 4))) + str(rng.randint(0, 999))
    return text[: modifier - 4] if modifier >= 4 else text


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def _numeric(rng: random.Random, modifier: int) -> str:
    if modifier < 4:
        return f"{rng.randint(-(10**12), 10**12)}.{_digits(rng, rng.randint(1, 8))}"
    precision, scale = (modifier - 4) >> 16, (modifier - 4) & 2047
    whole = str(rng.randint(0, 10 ** max(precision - scale, 0) - 1))
    return f"{rng.choice(['', '-'])}{whole}" + (f".{_digits(rng, scale)}" if scale else "")


def _date(rng: random.Random, _: int = -1) -> str:
    return f"{rng.randint(1900, 2100):04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _time(rng: random.Random, _: int = -1) -> str:
    micros = rng.choice(["", f".{rng.randint(0, 999_999):06d}"])
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}{micros}"


def _moment(rng: random.Random, _: int = -1) -> str:
    return f"{_date(rng)} {_time(rng)}"


def _zoned(rng: random.Random, _: int = -1) -> str:
    return f"{_moment(rng)}{rng.choice(['+00', '-03:30', '+12'])}"


def _json(rng: random.Random, _: int = -1) -> str:
    return json.dumps(
        rng.choice(
            [
                {"a": rng.randint(-5, 5), "b": [rng.random(), None, True], "c": rng.choice(_WORDS)},
                [],
                rng.randint(-(2**40), 2**40),
                rng.choice(_WORDS),
                {},
            ]
        )
    )


def _bits(rng: random.Random, modifier: int) -> str:
    return "".join(rng.choice("01") for _ in range(modifier if modifier > 0 else 1))


def _varbits(rng: random.Random, modifier: int) -> str:
    return "".join(rng.choice("01") for _ in range(rng.randint(0, modifier if modifier > 0 else 30)))


def _point(rng: random.Random, _: int = -1) -> str:
    return f"({rng.randint(-99, 99)},{rng.randint(-99, 99) / 4})"


def _points(rng: random.Random, start: str, end: str) -> str:
    return start + ",".join(_point(rng) for _ in range(3)) + end


def _floats(rng: random.Random, count: int) -> str:
    return "[" + ",".join(str(rng.randint(-400, 400) / 4) for _ in range(count if count > 0 else 3)) + "]"


def _sparse(rng: random.Random, size: int) -> str:
    size = size if size > 0 else 5
    return f"{{1:{rng.randint(1, 9)},{size}:{rng.randint(1, 9)}}}/{size}"


def _range(low: str, high: str) -> str:
    return f"[{min(low, high)},{max(low, high)})"


def _whole_range(rng: random.Random, _: int = -1) -> str:
    low = rng.randint(-1_000, 1_000)
    return rng.choice([f"[{low},{low + rng.randint(1, 99)})", "empty", f"({low},)"])


def _isbn(rng: random.Random, _: int = -1) -> str:
    nine = _digits(rng, 9)
    check = (11 - sum((10 - n) * int(d) for n, d in enumerate(nine)) % 11) % 11
    return nine + ("X" if check == 10 else str(check))


def _hex(rng: random.Random, groups: int) -> str:
    return ":".join(f"{rng.randint(0, 255):02x}" for _ in range(groups))


def _interval(rng: random.Random, _: int = -1) -> str:
    return f"{rng.randint(-3, 3)} years {rng.randint(-40, 40)} days {rng.randint(-9, 9)}:00:01.25"


def _label(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_letters) for _ in range(rng.randint(1, 6)))


_MAKERS = {
    "int2": lambda r, _: str(r.randint(-(2**15), 2**15 - 1)),
    "int4": lambda r, _: str(r.choice([r.randint(-(2**31), 2**31 - 1), r.randint(0, 100)])),
    "int8": lambda r, _: str(r.choice([r.randint(-(2**63), 2**63 - 1), r.randint(0, 100)])),
    "oid": lambda r, _: str(r.randint(0, 2**32 - 1)),
    "float4": lambda r, _: r.choice(["NaN", "Infinity", "-0", str(r.uniform(-1e6, 1e6))]),
    "float8": lambda r, _: r.choice(["NaN", "-Infinity", "-0", repr(r.uniform(-1e100, 1e100))]),
    "bool": lambda r, _: r.choice("tf"),
    "numeric": _numeric,
    "money": lambda r, _: f"{r.randint(-(10**9), 10**9) / 100:.2f}",
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "citext": _text,
    "name": lambda r, _: _text(r, -1)[:20],
    "uuid": lambda r, _: "-".join(f"{r.getrandbits(n * 4):0{n}x}" for n in (8, 4, 4, 4, 12)),
    "json": _json,
    "jsonb": _json,
    "xml": lambda r, _: f"<a n='{r.randint(0, 9)}'><b/>{r.choice(['x', 'é'])}</a>",
    "bytea": lambda r, _: "\\x" + r.randbytes(r.randint(0, 20)).hex(),
    "date": _date,
    "time": _time,
    "timetz": lambda r, _: f"{_time(r)}{r.choice(['+00', '-03:30', '+12'])}",
    "timestamp": _moment,
    "timestamptz": _zoned,
    "interval": _interval,
    "inet": lambda r, _: f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.1/{r.randint(8, 32)}",
    "cidr": lambda r, _: f"10.{r.randint(0, 255)}.0.0/16",
    "macaddr": lambda r, _: _hex(r, 6),
    "macaddr8": lambda r, _: _hex(r, 8),
    "bit": _bits,
    "varbit": _varbits,
    "point": _point,
    "line": lambda r, _: f"{{{r.randint(1, 9)},{r.randint(0, 9)},{r.randint(0, 9)}}}",
    "lseg": lambda r, _: f"[{_point(r)},{_point(r)}]",
    "box": lambda r, _: f"{_point(r)},{_point(r)}",
    "path": lambda r, _: _points(r, *r.choice([("(", ")"), ("[", "]")])),
    "polygon": lambda r, _: _points(r, "(", ")"),
    "circle": lambda r, _: f"<{_point(r)},{r.randint(1, 9)}>",
    "int4range": _whole_range,
    "int8range": _whole_range,
    "numrange": _whole_range,
    "daterange": lambda r, _: _range(_date(r), _date(r)),
    "tsrange": lambda r, _: _range(_date(r), _date(r)),
    "tstzrange": lambda r, _: _range(_date(r), _date(r)),
    "tsvector": lambda r, _: f"'{_label(r)}':{r.randint(1, 9)} '{_label(r)}'",
    "tsquery": lambda r, _: f"{_label(r)} & !{_label(r)}",
    "hstore": lambda r, _: f'"{_label(r)}"=>"{r.choice(["x", "é"])}", "{_label(r)}"=>NULL',
    "ltree": lambda r, _: f"{_label(r)}.{_label(r)}",
    "isbn": _isbn,
    "vector": _floats,
    "halfvec": _floats,
    "sparsevec": _sparse,
    "pg_lsn": lambda r, _: f"{r.randint(0, 9)}/{r.randint(1, 2**31):X}",
}
