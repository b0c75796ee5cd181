"""Random expressions of the mapping's SQL subset, and rows to try them on."""

from __future__ import annotations

from random import Random

ENUM_LABELS = ("new", "open", "done")
#: column -> type in CREATE TABLE, and texts to fill it with
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {}


def _columns(names: str, declared: str, *values: str) -> None:
    for name in names.split():
        COLUMNS[name] = (declared, values)


_FLOATS = ("0", "-0", "1", "1.5", "-1", "0.1", "2", "NaN", "Infinity", "-Infinity")
_TEXTS = (
    "",
    "a",
    "ab",
    "a ",
    " a",
    "A",
    "a%b",
    "a_b",
    "a\\b",
    "ä",
    "x",
    "\n",
    "aXb",
    "'",
    "aab",
    "abab",
    "1",
)
_TIMES = (
    "1970-01-01 00:00:00", "2024-01-01 00:00:00", "2024-01-01 00:00:00.000001",
    "2024-02-29 23:59:59.999999",
    "0001-01-01 00:00:00", "4713-01-01 00:00:00 BC", "9999-12-31 23:59:59.999999", "infinity",
    "-infinity",
)  # fmt: skip
_columns("i2", "smallint", "0", "1", "-1", "2", "32767", "-32768")
_columns("i4 j4", "integer", "0", "1", "-1", "2", "5", "2147483647", "-2147483648")
_columns(
    "i8 j8", "bigint", "0", "1", "-1", "2", "9007199254740992", "9007199254740993",
    "9223372036854775807", "-9223372036854775808",
)  # fmt: skip
_columns(
    "n m", "numeric", "0", "0.00", "1", "1.0", "1.50", "-1", "2.5", "NaN", "Infinity", "-Infinity", "0.1",
    "12345678901234567890.123", "9007199254740993", "1e-400", "1e400",
)  # fmt: skip
_columns("f g", "double precision", *_FLOATS, "1e308", "-1e308", "5e-324", "9007199254740992")
_columns("r s", "real", *_FLOATS, "3.3", "1e38")
_columns("b c", "boolean", "true", "false")
_columns('t "Mixed""Case"', "text", *_TEXTS)
_columns("v", "character varying(10)", *_TEXTS)
_columns("ch ci", "character(4)", "", "a", "ab", "abcd", " a", "ä", "a%b")
_columns("e", "mood", *ENUM_LABELS)
_columns("u w", "uuid", "0" * 32, "f" * 32, "7f" * 16, "80" * 16)
_columns("z y", "timestamp with time zone", *_TIMES)
_columns("k l", "timestamp without time zone", *_TIMES)
_columns(
    "d o",
    "date",
    "1970-01-01",
    "2024-01-01",
    "2024-02-29",
    "0001-01-01",
    "9999-12-31",
    "infinity",
    "-infinity",
)
_columns("doc", "jsonb", "{}", "null")

_OF_KIND = {
    "number": ("i2", "i4", "j4", "i8", "j8", "n", "m", "f", "g", "r", "s"),
    "text": ("t", '"Mixed""Case"', "v"),
    "char": ("ch", "ci"),
    "enum": ("e",),
    "uuid": ("u", "w"),
    "time": ("z", "y", "k", "l", "d", "o"),
    "boolean": ("b", "c"),
}
_LITERALS = {
    "number": (
        "0", "1", "-1", "2", "5", "-2147483648", "2147483648", "9223372036854775807",
        "-9223372036854775808",
        "9007199254740993", "99999999999999999999", "1.5", "0.1", "2.50", ".5", "5.", "1e3", "1e-3",
        "1.5e1", "'1'",
        "' -1 '", "1::smallint", "'1'::bigint", "1.5::double precision", "'NaN'::float8",
        "'NaN'::numeric",
        "'-inf'::numeric", "'Infinity'::double precision", "0.1::numeric", "3::numeric", "NULL",
        "NULL::numeric",
        "NULL::int", "-(-5)",
    ),
    "text": (
        "''", "'a'", "'ab'", "'a '", "'it''s'", "'a\\b'", "'ä'", "'A'", "'x'::text", "'a'::varchar",
        "NULL", "NULL::text",
        "'\n'", "'1'",
    ),
    "char": ("''", "'a'", "'ab'", "'ab  '", "'abcd'", "NULL"),
    "enum": ("'new'", "'open'", "NULL"),
    "uuid": (
        "'00000000-0000-0000-0000-000000000000'", "'7f7f7f7f-7f7f-7f7f-7f7f-7F7F7F7F7F7F'",
        "'80808080-8080-8080-8080-808080808080'::uuid", "NULL", "NULL::uuid",
    ),
    "time": (
        "now()", "current_timestamp", "'2024-01-01'", "DATE '2024-01-01'",
        "TIMESTAMP '2024-01-01 00:00:00.000001'",
        "TIMESTAMPTZ '2024-01-01 02:00:00+02'", "'2024-01-01 02:00:00-03:30'::timestamptz",
        "'infinity'::timestamptz",
        "'-infinity'::timestamp", "'infinity'::date", "'-infinity'::date", "'1970-01-01'::timestamptz",
        "NULL",
        "NULL::timestamptz", "NULL::date", "TIMESTAMPTZ '2024-01-01T00:00Z'", "date '0001-01-01'",
        "timestamp '9999-12-31 23:59'", "timestamp with time zone '2024-02-29 1:02:03.5 +0530'",
    ),
    "boolean": ("true", "false", "NULL", "'t'", "'off'::boolean", "NULL::boolean"),
}  # fmt: skip
_INTERVALS = (
    "INTERVAL '1 day'", "INTERVAL '36 hours'", "interval '1 day -2:30'", "'-1 day 2:30:00.5'::interval",
    "INTERVAL '1 week -3 days 5 mins'", "INTERVAL '1 microsecond'", "INTERVAL '2000000 days'",
    "INTERVAL '-300000000 days'", "INTERVAL '+1 ms 1us'",
)  # fmt: skip
_PATTERNS = (
    "%", "", "a", "a%", "%b", "%a%", "_", "a_b", "a\\_b", "a\\%b", "a\\\\b", "%a%b", "a%b%", "_%_",
    "%a_", "%%", "a%a%b",
    "%ab%ab%", "a ", "ä", "a%  ", "\\a%",
)  # fmt: skip
_ORDERED = ("number", "time", "uuid", "boolean")


def random_row(random: Random) -> dict[str, str | None]:
    """Texts of one row, by column."""
    return {name: None if random.random() < 0.2 else random.choice(of) for name, (_, of) in COLUMNS.items()}


def random_expression(random: Random, depth: int = 4) -> str:
    """The text of a condition,
    or of a value of any type. Some do not pass the check of types; most do."""
    maker = _Maker(random)
    if random.random() < 0.6:
        return maker.condition(depth)
    return maker.value(random.choice([kind for kind in _OF_KIND if kind != "enum"]), depth)


class _Maker:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.pick = random.choice

    def some(self, chance: float) -> bool:
        return self.random.random() < chance

    def value(self, kind: str, depth: int) -> str:
        if kind == "boolean" and depth > 0 and self.some(0.5):
            return f"({self.condition(depth - 1)})"
        if depth <= 0 or self.some(0.35) or kind == "enum":
            return self.pick(_LITERALS[kind]) if self.some(0.3) else self.pick(_OF_KIND[kind])
        make = self.pick([self.call, self.call, self.case, self.calculation, self.calculation])
        text = make(kind, depth - 1)
        return f"({text})" if self.some(0.5) else text

    def call(self, kind: str, depth: int) -> str:
        if self.some(0.4):
            return f"NULLIF({self.value(kind, depth)}, {self.value(kind, depth)})"
        return f"coalesce({', '.join(self.value(kind, depth) for _ in range(self.pick([1, 2, 2, 3])))})"

    def case(self, kind: str, depth: int) -> str:
        branches = range(self.pick([1, 1, 2]))
        otherwise = f" ELSE {self.value(kind, depth)}" if self.some(0.7) else ""
        if self.some(0.3):
            on = self.pick(["number", "text", "char", "uuid"])
            whens = "".join(f" WHEN {self.value(on, 0)} THEN {self.value(kind, depth)}" for _ in branches)
            return f"CASE {self.pick(_OF_KIND[on])}{whens}{otherwise} END"
        whens = "".join(f" WHEN {self.condition(depth)} THEN {self.value(kind, depth)}" for _ in branches)
        return f"CASE{whens}{otherwise} END"

    def calculation(self, kind: str, depth: int) -> str:
        if kind == "number":
            if self.some(0.2):
                return f"- {self.value(kind, depth)}"
            return f"{self.value(kind, depth)} {self.pick('+-*')} {self.value(kind, depth)}"
        if kind == "time":
            if self.some(0.1):
                return f"{self.pick(_INTERVALS)} + {self.pick(['z', 'k', 'now()'])}"
            of = self.pick(["z", "y", "k", "now()", f"({self.value(kind, depth)})"])
            return f"{of} {self.pick('+-')} {self.pick(_INTERVALS)}"
        if kind in ("text", "char"):
            return " || ".join(
                self.value(self.pick(["text", "text", "char"]), depth) for _ in range(self.pick([2, 3]))
            )
        return self.value(kind, depth)

    def condition(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(["b", "c", "true", "t = 'a'", "i4 > 0", "z > now()", "e = 'new'", "n IS NULL"])
        make = self.pick(
            [self.comparison] * 4
            + [self.junction] * 3
            + [self.membership, self.range, self.like, self.test, self.negation]
        )
        return make(depth - 1)

    def junction(self, depth: int) -> str:
        word = self.pick([" AND ", " OR "])
        parts = [self.condition(depth) for _ in range(self.pick([2, 2, 3]))]
        return word.join(f"({p})" if self.some(0.5) else p for p in parts)

    def negation(self, depth: int) -> str:
        return f"NOT {self.condition(depth)}" if self.some(0.5) else f"NOT ({self.condition(depth)})"

    def comparison(self, depth: int) -> str:
        kind = self.pick(["number", "number", "time", "time", "text", "char", "enum", "uuid", "boolean"])
        operators = ["=", "<>", "!=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
        if kind in _ORDERED:
            operators += ["<", "<=", ">", ">="]
        right = self.pick(_LITERALS[kind]) if kind == "enum" else self.value(kind, depth)
        return f"{self.value(kind, depth)} {self.pick(operators)} {right}"

    def membership(self, depth: int) -> str:
        kind = self.pick(list(_OF_KIND))
        possible = [text for text in _LITERALS[kind] if "now" not in text and "current" not in text]
        items = ", ".join(self.pick(possible) for _ in range(self.pick([1, 2, 4])))
        return f"{self.value(kind, depth)} {self.pick(['', 'NOT '])}IN ({items})"

    def range(self, depth: int) -> str:
        kind = self.pick(_ORDERED)
        low, high = self.value(kind, depth), self.value(kind, depth)
        return f"{self.value(kind, depth)} {self.pick(['', 'NOT '])}BETWEEN {low} AND {high}"

    def like(self, depth: int) -> str:
        text = self.value(self.pick(["text", "text", "char"]), depth)
        escape = self.pick(["", r" ESCAPE '\'"])
        return f"{text} {self.pick(['', 'NOT '])}LIKE '{self.pick(_PATTERNS)}'{escape}"

    def test(self, depth: int) -> str:
        negated = self.pick(["", "NOT "])
        if self.some(0.5):
            return f"({self.condition(depth)}) IS {negated}{self.pick(['TRUE', 'FALSE', 'UNKNOWN'])}"
        of = self.pick(["doc", "e", self.value(self.pick(list(_OF_KIND)), depth)])
        return f"{of} IS {negated}NULL"
