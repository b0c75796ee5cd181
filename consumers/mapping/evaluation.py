"""Types and Python code of an expression: what `filters` checks and compiles.

The types follow PostgreSQL's rules ("Type Conversion" in its documentation) as far as the subset needs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from consumers.mapping import arithmetic
from consumers.mapping.arithmetic import EvaluationFailed
from consumers.mapping.expressions import (
    Binary,
    Boolean,
    Call,
    Case,
    Column,
    In,
    Interval,
    Is,
    Like,
    Many,
    Negative,
    Node,
    Not,
    Now,
    Null,
    Number,
    Text,
    Typed,
)
from consumers.mapping.literals import INT_LIMITS, FilterInvalid, native, number

_INTS: Final = tuple(INT_LIMITS)
_NUMBERS: Final = (*_INTS, "numeric", "real", "double precision")
_FLOATS: Final = ("real", "double precision")
_TEXTS: Final = ("text", "character varying")
_CHAR: Final = "character"
_INSTANTS: Final = ("timestamp without time zone", "timestamp with time zone")
_TIMES: Final = ("date", *_INSTANTS)
_SCALARS: Final = frozenset((*_NUMBERS, *_TEXTS, _CHAR, *_TIMES, "boolean", "uuid"))
_OPERATORS: Final = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_NEGATED: Final = {">": "<=", ">=": "<"}
#: A literal whose type is still open.
_OPEN: Final = "unknown"
_CENTURY_US: Final = 36_525 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Term:
    """A part with its type and its Python code over row, now and the compiler's names."""

    type: str
    code: str
    nullable: bool = True
    #: Evaluating it may raise.
    fails: bool = False
    constant: bool = False
    #: Of a constant: its value; of an open literal its text. None is NULL.
    value: Any = None

    @property
    def public_type(self) -> str:
        return "enum" if _is_enum(self.type) else self.type


def _is_enum(type_name: str) -> bool:
    return type_name.startswith("enum ")


class Compiler:
    """Types and code in one walk; whatever holds no column and no now() is evaluated here and now."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self._temporaries = 0
        self.names: dict[str, Any] = {"__builtins__": {}, **arithmetic.NAMES}

    def whole(self, node: Node) -> _Term:
        """The term of a whole expression."""
        if isinstance(node, Interval):
            raise FilterInvalid("an INTERVAL stands only after + or - beside a timestamp")
        return self._settled(self._term(node))

    # -- leaves --------------------------------------------------------------------------------------------
    def _term(self, node: Node) -> _Term:
        match node:
            case Column(name):
                return self._column(name, {*_SCALARS, "enum"})
            case Null():
                return self._constant(_OPEN, None)
            case Text(value):
                return self._constant(_OPEN, value)
            case Number(text):
                return self._constant(*number(text))
            case Boolean(value):
                return self._constant("boolean", value)
            case Typed(type_name, text_or_null):
                return self._constant(
                    type_name, None if text_or_null is None else native(type_name, text_or_null)
                )
            case Now():
                return _Term("timestamp with time zone", "now", nullable=False)
            case Interval():
                raise FilterInvalid("an INTERVAL stands only after + or - beside a timestamp")
            case Not(of):
                return self._strict("boolean", "not {}", self._boolean(of))
            case Many(word, parts):
                return self._concatenation(parts) if word == "||" else self._junction(word, parts)
            case Is(of, value):
                return self._is(of, value)
            case Binary(operator, left, right):
                return self._binary(operator, left, right)
            case Negative(of):
                return self._negative(self._term(of))
            case In(of, items):
                return self._in(self._term(of), [self._term(item) for item in items])
            case Like(of, pattern):
                return self._like(self._term(of), pattern)
            case Call("coalesce", parts):
                return self._coalesce(self._unified([self._term(part) for part in parts], "coalesce"))
            case Call(_, (first, second)):
                return self._nullif(self._term(first), self._term(second))
            case Case():
                return self._case(node)
        raise AssertionError(node)

    def _column(self, name: str, possible: Iterable[str] | None) -> _Term:
        found = self._types.get(name)
        if found is None:
            raise FilterInvalid(f"there is no column '{name}'")
        found = _CHAR if found == "bpchar" else found
        if possible is not None and found not in possible:
            raise FilterInvalid(f"column '{name}' is of type {found}: only IS [NOT] NULL is possible with it")
        return _Term(f"enum {name}" if found == "enum" else found, f"row[{name!r}]")

    def _constant(self, type_name: str, value: Any) -> _Term:
        if value is None or isinstance(value, bool | int | str):
            code = f"({value!r})"
        else:
            code = f"k{len(self.names)}"
            self.names[code] = value
        return _Term(type_name, code, nullable=value is None, constant=True, value=value)

    # -- building blocks -----------------------------------------------------------------------------------
    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _strict(self, type_name: str, form: str, *operands: _Term, fails: bool = False) -> _Term:
        """A term that is NULL when an operand is. form: code, {} for each operand or {0} several times."""
        if any(operand.constant and operand.value is None for operand in operands):
            return self._constant(type_name, None)
        tests, atoms = [], []
        for operand in operands:
            if operand.constant:
                atoms.append(operand.code)
            elif operand.nullable or operand.fails or form.count("{0}") > 1:
                atoms.append(self._temporary())
                tests.append(f"(({atoms[-1]} := {operand.code}) is None)")
            else:
                atoms.append(operand.code)
        # every operand that can fail is evaluated, as PostgreSQL does, also beside a NULL
        word = " | " if any(o.fails for o in operands[1:]) else " or "
        code = f"{f'None if {word.join(tests)} else ' if tests else ''}{form.format(*atoms)}"
        nullable, fails = any(o.nullable for o in operands), fails or any(o.fails for o in operands)
        return self._folded(_Term(type_name, f"({code})", nullable, fails), operands)

    def _folded(self, term: _Term, operands: Iterable[_Term]) -> _Term:
        if not all(operand.constant for operand in operands):
            return term
        try:
            value = eval(f"(lambda: {term.code})()", self.names)  # noqa: S307 - as in compile
        except EvaluationFailed as error:
            raise FilterInvalid(f"this fails for every row: {error}") from None
        return self._constant(term.type, value)

    def _settled(self, term: _Term) -> _Term:
        return self._as(term, "text") if term.type == _OPEN else term

    def _boolean(self, node: Node) -> _Term:
        term = self._term(node)
        if term.type == _OPEN:
            term = self._as(term, "boolean")
        if term.type != "boolean":
            raise FilterInvalid(f"a condition is needed where there is a {term.public_type}: {node.sql()}")
        return term

    # -- conversions ---------------------------------------------------------------------------------------
    def _as(self, term: _Term, target: str) -> _Term:
        """The term converted as PostgreSQL does it implicitly; the caller knows that it does."""
        source = term.type
        if source == target:
            return term
        if source == _OPEN:
            return self._constant(target, None if term.value is None else native(_plain(target), term.value))
        if target == "numeric" and source in _INTS:
            return self._strict(target, "decimal({})", term)
        if target == "double precision" and source in _INTS:
            return self._strict(target, "float({})", term)
        if target == "double precision" and source == "numeric":
            return self._strict(target, "double({})", term, fails=True)
        if target in _INSTANTS and source in _TIMES:
            if source == "date":
                term = self._strict(target, "midnight({})", term, fails=True)
            # to PostgreSQL the step to a zone is no constant, since it depends on the session's TimeZone
            constant = term.constant and (target != _INSTANTS[1] or term.value is None)
            return replace(term, type=target, constant=constant)
        if target in _TEXTS and source == _CHAR:
            return self._strict(target, "{}.rstrip(' ')", term)
        return replace(term, type=target)  # a wider int, real to double, text: the form is the same

    def _pair(self, left: _Term, right: _Term, what: str) -> tuple[_Term, _Term]:
        """Both sides of an operator in a form that can be compared."""
        if left.type == _OPEN and right.type == _OPEN:
            return self._as(left, "text"), self._as(right, "text")
        if left.type == _OPEN:
            return self._as(left, right.type), right
        if right.type == _OPEN:
            return left, self._as(right, left.type)
        kinds = {left.type, right.type}
        if len(kinds) == 1 or kinds <= {*_INTS} or kinds <= {*_TEXTS}:
            return left, right
        for family, common in (
            ((*_INTS, "numeric"), "numeric"),
            (_NUMBERS, "double precision"),
            (_TIMES, max(kinds, key=_TIMES.index) if kinds <= {*_TIMES} else ""),
        ):
            if kinds <= {*family}:
                return self._as(left, common), self._as(right, common)
        raise _mismatch(what, (left, right))

    def _unified(self, terms: list[_Term], what: str) -> list[_Term]:
        """Terms that become one value (or one list), in the type that PostgreSQL would choose."""
        known = list(dict.fromkeys(term.type for term in terms if term.type != _OPEN))
        target = known[0] if known else "text"
        if len(known) > 1:
            for family in (_NUMBERS, _TIMES):
                if set(known) <= {*family}:
                    target = max(known, key=family.index)
                    break
            else:
                if not set(known) <= {*_TEXTS}:
                    raise _mismatch(what, terms)
            if target == "real":
                raise FilterInvalid(f"{what}: real beside other numbers is not in the subset")
        return [self._as(term, target) for term in terms]

    # -- logic ---------------------------------------------------------------------------------------------
    def _junction(self, word: str, parts: tuple[Node, ...]) -> _Term:
        decides = word == "OR"  # the value that decides alone
        terms = [self._boolean(part) for part in parts]
        if any(t.constant and t.value is decides for t in terms):
            return self._constant("boolean", decides)
        terms = [t for t in terms if not t.constant or t.value is None]
        if not terms:
            return self._constant("boolean", not decides)
        atoms = [self._temporary() for _ in terms]
        decided = " or ".join(f"({a} := {t.code}) is {decides}" for a, t in zip(atoms, terms, strict=True))
        open_ = " or ".join(f"{a} is None" for a, t in zip(atoms, terms, strict=True) if t.nullable)
        code = f"({decides} if {decided} else {f'None if {open_} else ' if open_ else ''}{not decides})"
        term = _Term("boolean", code, any(t.nullable for t in terms), any(t.fails for t in terms))
        return self._folded(term, terms)

    def _is(self, of: Node, value: bool | None) -> _Term:
        if value is not None:
            term = self._boolean(of)
        elif isinstance(of, Column):
            term = self._column(of.name, None)
        else:
            term = self._settled(self._term(of))
        if term.constant:
            return self._constant("boolean", term.value is value)
        return _Term("boolean", f"({term.code} is {value})", False, term.fails)

    def _case(self, node: Case) -> _Term:
        whens = [self._boolean(when) for when in node.whens]
        # PostgreSQL looks at ELSE first when it chooses the type
        default, *thens = self._unified([self._term(n) for n in (node.default, *node.thens)], "CASE")
        branches, results, fails = "", [default], False
        for when, then in zip(whens, thens, strict=True):
            if not when.constant:
                branches += f"{then.code} if {when.code} else "
                results.append(then)
                fails |= when.fails
            elif when.value:
                default = results[0] = then
                break
        if not branches:
            return default
        nullable = any(t.nullable for t in results)
        return _Term(
            default.type, f"({branches}{default.code})", nullable, fails or any(t.fails for t in results)
        )

    def _coalesce(self, terms: list[_Term]) -> _Term:
        terms = [t for t in terms if not t.constant or t.value is not None] or terms[:1]
        certain = next((i for i, t in enumerate(terms) if not t.nullable), len(terms) - 1)
        *first, last = terms[: certain + 1]
        if not first:
            return last
        code = last.code
        for term in reversed(first):
            atom = self._temporary()
            code = f"{atom} if ({atom} := {term.code}) is not None else {code}"
        return _Term(last.type, f"({code})", last.nullable, any(t.fails for t in (*first, last)))

    def _nullif(self, first: _Term, second: _Term) -> _Term:
        left, _ = self._pair(first, second, "nullif")
        kept = replace(left, type="text") if left.type in _TEXTS else left
        if {first.type, second.type} & {*_FLOATS} and first.type == "real":
            kept = first  # the operators between real and double keep real
        elif first.type in _TIMES:
            kept = first  # and so do those between date and timestamp
        atom = self._temporary()
        held = kept if kept.constant else replace(kept, code=f"({atom} := {kept.code})", nullable=True)
        equal = self._compare("=", held, second)
        if equal.constant:
            return self._constant(kept.type, None) if equal.value else kept
        code = f"(None if {equal.code} else {kept.code if kept.constant else atom})"
        return _Term(kept.type, code, True, equal.fails)

    # -- comparisons ---------------------------------------------------------------------------------------
    def _binary(self, operator: str, left: Node, right: Node) -> _Term:
        if operator in _OPERATORS:
            return self._compare(operator, self._term(left), self._term(right))
        if operator.startswith("IS"):
            return self._distinct(self._term(left), self._term(right), equal="NOT" in operator)
        if isinstance(right, Interval) or isinstance(left, Interval):
            return self._shifted(operator, left, right)
        return self._calculated(operator, self._term(left), self._term(right))

    def _compare(self, operator: str, left: _Term, right: _Term) -> _Term:
        left, right = self._pair(left, right, operator)
        if operator not in ("=", "<>"):
            for term in (left, right):
                if term.type in (*_TEXTS, _CHAR):
                    raise FilterInvalid(
                        f"'{operator}' on text is not in the subset: the order depends on the collation"
                    )
                if _is_enum(term.type):
                    raise FilterInvalid(
                        f"'{operator}' on an enum is not in the subset: events hold labels, not their order"
                    )
        return self._strict("boolean", _comparison(operator, left, right), left, right)

    def _distinct(self, left: _Term, right: _Term, *, equal: bool) -> _Term:
        left, right = self._pair(left, right, "IS DISTINCT FROM")
        a, b = self._temporary(), self._temporary()
        nulls = f"(({a} := {left.code}) is None) is not (({b} := {right.code}) is None)"
        differ = _comparison("<>", left, right).format(a, b)
        code = f"({'not ' if equal else ''}({nulls} or ({a} is not None and {differ})))"
        return self._folded(_Term("boolean", code, False, left.fails or right.fails), (left, right))

    def _in(self, of: _Term, items: list[_Term]) -> _Term:
        if len(items) == 1:
            return self._compare("=", of, items[0])
        of, *items = self._unified([of, *items], "IN")
        of = replace(of, constant=of.constant and all(item.constant for item in items))
        values = [item.value for item in items if item.value is not None]
        form = "{0}"
        if of.type == _CHAR:
            values = [value.rstrip(" ") for value in values]
            form = "{0}.rstrip(' ')"
        name = f"k{len(self.names)}"
        self.names[name] = frozenset(values)
        form = f"{form} in {name}"
        if any(value != value for value in values):  # NaN
            form = f"({form} or {{0}} != {{0}})"
        if len(values) < len(items):
            return replace(self._strict("boolean", f"({form} or None)", of), nullable=True)
        return self._strict("boolean", form, of)

    def _like(self, of: _Term, pattern: str) -> _Term:
        of = self._settled(of)
        if of.type not in (*_TEXTS, _CHAR):
            raise FilterInvalid(f"LIKE is for text, not for {of.public_type}")
        name = f"k{len(self.names)}"
        form, self.names[name] = _like_form(pattern, name)
        return self._strict("boolean", form, of)

    # -- values --------------------------------------------------------------------------------------------
    def _concatenation(self, parts: tuple[Node, ...]) -> _Term:
        terms = []
        for part in parts:
            term = self._settled(self._term(part))
            if term.type not in (*_TEXTS, _CHAR):
                raise FilterInvalid(f"|| is for text, not for {term.public_type}")
            terms.append(self._as(term, "text"))
        return self._strict("text", " + ".join("{}" for _ in terms), *terms)

    def _shifted(self, operator: str, left: Node, right: Node) -> _Term:
        if isinstance(left, Interval) and operator == "+":
            left, right = right, left
        if not isinstance(right, Interval) or isinstance(left, Interval) or operator == "*":
            raise FilterInvalid("an INTERVAL stands only after + or - beside a timestamp")
        term, us = self._term(left), right.us if operator == "+" else -right.us
        if term.type not in _INSTANTS:
            raise FilterInvalid(f"{operator} INTERVAL is for timestamps, not for {term.public_type}")
        if isinstance(left, Now) and abs(us) < _CENTURY_US:
            return replace(term, code=f"(now + {us})")
        return self._strict(term.type, f"shift({{}}, {us})", term, fails=True)

    def _calculated(self, operator: str, left: _Term, right: _Term) -> _Term:
        kinds = {left.type, right.type}
        if not kinds <= {*_NUMBERS}:
            raise _mismatch(
                operator, (left, right), "; arithmetic is for numbers, and timestamps with INTERVAL"
            )
        if kinds <= {*_INTS}:
            wider = max(kinds, key=_INTS.index)
            return self._limited(wider, f"{{}} {operator} {{}}", left, right)
        if kinds == {"real"}:
            raise FilterInvalid(
                f"{operator} of two real values is not in the subset: it is rounded to 32 bits"
            )
        target = "double precision" if kinds & {*_FLOATS} else "numeric"
        left, right = self._as(left, target), self._as(right, target)
        prefix = "decimal" if target == "numeric" else "float"
        name = {"+": "plus", "-": "minus", "*": "times"}[operator]
        return self._strict(target, f"{prefix}_{name}({{}}, {{}})", left, right, fails=True)

    def _limited(self, type_name: str, form: str, *operands: _Term) -> _Term:
        limit, atom = INT_LIMITS[type_name], self._temporary()
        form = f"({atom} if {-limit} <= ({atom} := {form}) < {limit} else too_large({type_name!r}))"
        return self._strict(type_name, form, *operands, fails=True)

    def _negative(self, term: _Term) -> _Term:
        if term.type in _INTS:
            return self._limited(term.type, "- {}", term)
        if term.type not in _NUMBERS:
            raise FilterInvalid(f"- is for numbers, not for {term.public_type}")
        return self._strict(term.type, "decimal_negative({})" if term.type == "numeric" else "- {}", term)


def _plain(type_name: str) -> str:
    return "enum" if _is_enum(type_name) else type_name


def _mismatch(what: str, terms: Iterable[_Term], more: str = "") -> FilterInvalid:
    kinds = " and ".join(dict.fromkeys("a literal" if t.type == _OPEN else t.public_type for t in terms))
    return FilterInvalid(f"{what} of {kinds} is not in the subset{more}")


def _comparison(operator: str, left: _Term, right: _Term) -> str:
    """Code with {0} and {1}. NaN equals itself and is greater than every number."""
    if left.type == _CHAR:
        return f"{{0}}.rstrip(' ') {_OPERATORS[operator]} {{1}}.rstrip(' ')"
    if left.type not in ("numeric", *_FLOATS):
        return f"{{0}} {_OPERATORS[operator]} {{1}}"
    if operator in ("=", "<>"):
        if _is_number(left) or _is_number(right):
            return f"{{0}} {_OPERATORS[operator]} {{1}}"
        return f"{'not ' if operator == '<>' else ''}equal({{0}}, {{1}})"
    if left.type in _FLOATS and _is_number(right):  # a float that is NaN compares as False
        return f"not {{0}} {_NEGATED[operator]} {{1}}" if operator in _NEGATED else f"{{0}} {operator} {{1}}"
    first, second = ("{0}", "{1}") if operator in ("<", ">=") else ("{1}", "{0}")
    return f"{'not ' if operator in ('<=', '>=') else ''}less({first}, {second})"


def _is_number(term: _Term) -> bool:
    """Whether it is a constant other than NULL and NaN."""
    return term.constant and term.value is not None and bool(term.value == term.value)


def _like_form(pattern: str, name: str) -> tuple[str, Any]:
    """Code over {} and `name`, and what `name` stands for. Parts between % are found left to right, once."""
    parts, literal = _like_parts(pattern)
    if literal is not None:
        if len(parts) == 1:
            return f"{{}} == {name}", literal[0]
        if len(parts) == 2 and not literal[1]:
            return f"{{}}.startswith({name})", literal[0]
        if len(parts) == 2 and not literal[0]:
            return f"{{}}.endswith({name})", literal[1]
        if len(parts) == 3 and not literal[0] and not literal[2]:
            return f"{name} in {{}}", literal[1]
    first, *middle = parts
    last = f".*{middle.pop()}" if middle else ""
    found = re.compile(first + "".join(f"(?>.*?{part})" for part in middle if part) + last, re.DOTALL)
    return f"{name}({{}}) is not None", found.fullmatch


def _like_parts(pattern: str) -> tuple[list[str], list[str] | None]:
    """The parts between the % as regular expressions, and as plain text where there is no _."""
    parts, literal, plain = [""], [""], True
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            parts.append("")
            literal.append("")
        elif character == "_":
            parts[-1] += "."
            plain = False
        else:
            character = next(characters) if character == "\\" else character
            parts[-1] += re.escape(character)
            literal[-1] += character
    return parts, literal if plain else None
