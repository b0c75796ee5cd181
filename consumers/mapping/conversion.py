"""What `convert` in the mapping makes of a column: a policy of its type, or a rewriting of its text. Pure."""

from __future__ import annotations

from connectors.postgres.catalog import Column
from consumers.mapping.composed import codec_of, policies
from consumers.mapping.spec import Conversion, Prefix, Rewrite
from consumers.mapping.values import Convert

#: types whose native form is the text that an application sees
TEXTS = frozenset({"text", "character varying", "character", "citext", "name"})


def unfit(column: Column, wanted: Conversion) -> str | None:
    """Why a conversion does not fit a column; None where it does."""
    fitting = policies(column.resolved)
    listed = f"a column of type {column.type} takes: {', '.join(fitting)} (the first is the default)"
    if isinstance(wanted, Rewrite):
        return None if column.type in TEXTS else f"only the prefix of a text can be rewritten; {listed}"
    if wanted in fitting:
        return None
    also = ", {prefix: {from: /old, to: /new}}" if column.type in TEXTS else ""
    return f"there is no policy '{wanted}' for it; {listed}{also}"


def converter(column: Column, wanted: Conversion | None) -> Convert | None:
    """From a column's native form to BSON. None: it is that already."""
    kind = codec_of(column.resolved)
    if wanted is None:
        return kind.to_bson
    return _moved(wanted.prefix) if isinstance(wanted, Rewrite) else kind.policies[wanted]


def _moved(prefix: Prefix) -> Convert:
    old, new = prefix.folders
    return lambda text: moved(text, old, new, prefix.workspaces)


def moved(path: str, old: str, new: str, workspaces: str | None = None) -> str:
    """A path that is the folder old, or lies under it, by its new name; another one as it is. The root is empty.

    workspaces: where the inside of old/private/USER goes, below new/private/USER; the folder of the user itself keeps
    its name, and so does what lies elsewhere.
    """
    if path != (old or "/") and not path.startswith(f"{old}/"):
        return path
    if workspaces is not None:
        area, _, under = path[len(old) + 1 :].partition("/")
        user, _, inside = under.partition("/")
        if area == "private" and user and inside.strip("/"):
            return f"{new}/private/{user}/{workspaces}/{inside}"
    return f"{new}{path[len(old) :]}" or "/"
