"""$jsonSchema on documents that are not written yet: against jsonschema where both mean the same, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from sync.preflight.equality import bson_type
from sync.preflight.schema import fits, unsupported, violations

_NUMBERS = st.integers(-5, 5) | st.sampled_from([0.5, -2.5, 3.0])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text("ab€", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
_SIMPLE = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["number", "string", "object", "array", "boolean", "null"])}
    ),
    st.fixed_dictionaries({"minimum": st.integers(-3, 3), "exclusiveMinimum": st.booleans()}),
    st.fixed_dictionaries({"maximum": st.integers(-3, 3)}),
    st.fixed_dictionaries({"multipleOf": st.integers(1, 3)}),
    st.fixed_dictionaries({"minLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"maxLength": st.integers(0, 2), "pattern": st.sampled_from(["a", "^b", "€$"])}),
    st.fixed_dictionaries({"minItems": st.integers(0, 2), "uniqueItems": st.booleans()}),
    st.fixed_dictionaries({"maxItems": st.integers(0, 2)}),
    st.fixed_dictionaries({"minProperties": st.integers(0, 2)}),
    st.fixed_dictionaries({"maxProperties": st.integers(0, 2)}),
    st.fixed_dictionaries({"required": st.lists(st.sampled_from("abc"), min_size=1, unique=True)}),
    st.fixed_dictionaries({"enum": st.lists(st.text("ab", max_size=1) | st.none(), min_size=1, unique=True)}),
)
_SCHEMAS = st.recursive(
    _SIMPLE,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
                "additionalProperties": st.booleans() | inner,
            }
        ),
        st.fixed_dictionaries({"patternProperties": st.dictionaries(st.just("^[ab]"), inner, max_size=1)}),
        st.fixed_dictionaries(
            {"items": inner | st.lists(inner, min_size=1, max_size=2), "additionalItems": inner}
        ),
        st.fixed_dictionaries(
            {"dependencies": st.dictionaries(st.just("a"), inner | st.just(["b"]), max_size=1)}
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(schema=_SCHEMAS, value=_VALUES)
def test_json_values_are_judged_as_jsonschema_does(schema: dict[str, Any], value: Any) -> None:
    assert not unsupported(schema)
    assert fits(value, schema) == Draft4Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "int"),
        (2**31, "long"),
        (Int64(1), "long"),
        (1.0, "double"),
        (Decimal128("1"), "decimal"),
        (True, "bool"),
        (None, "null"),
        ("x", "string"),
        (DatetimeMS(1), "date"),
        (ObjectId(), "objectId"),
        (Binary(b""), "binData"),
        (b"", "binData"),
        ([], "array"),
        ({}, "object"),
    ],
)
def test_types_have_mongodbs_names(value: Any, name: str) -> None:
    assert bson_type(value) == name
    assert fits(value, {"bsonType": [name, "regex"]})
    assert not fits(value, {"bsonType": "regex"})
    assert fits(value, {"bsonType": "number"}) is (name in ("int", "long", "double", "decimal"))


def test_a_violation_names_the_field_and_no_value() -> None:
    schema = {
        "required": ["name"],
        "properties": {
            "kind": {"enum": ["a"]},
            "members": {"items": {"properties": {"role": {"bsonType": "string"}}}},
        },
    }
    document = {"kind": "secret", "members": [{"role": "x"}, {"role": 4711}]}
    assert list(violations(document, schema)) == [
        "name: required, and not there",
        "kind: none of the values of its enum",
        "members[].role: string wanted, it is int",
    ]


def test_what_is_not_evaluated_is_named() -> None:
    schema = {
        "properties": {"a": {"$ref": "x"}, "b": {"anyOf": [{"format": "date"}]}, "c": {"pattern": "(?<n>a)"}}
    }
    assert unsupported(schema) == {"$ref", "format", "the pattern (?<n>a)"}
    assert fits({"c": "b"}, {"properties": {"c": {"pattern": "(?<n>a)"}}})
    assert fits(Decimal128("NaN"), {"bsonType": "decimal"})
    assert not fits(Decimal128("NaN"), {"minimum": 0})
