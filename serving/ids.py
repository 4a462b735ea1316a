"""Ids as callers give them: an integer shop takes integers, a string shop takes strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput

Id = int | str


class BadField(BadInput):
    """One field of a request is wrong; ``field`` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@contextmanager
def within(part: str) -> Iterator[None]:
    """Name fields as those of a part of the request, such as ``requests.3``."""
    try:
        yield
    except BadField as error:
        raise BadField(f"{part}.{error.field}", f"{part}: {error}") from error


def check_id(value: object, id_type: IdType, field: str) -> Id:
    """Return ``value`` as an id of the shop's type.

    Raises:
        BadField: it is of another type, or past 64 bits.
    """
    if id_type is IdType.STRING:
        if isinstance(value, str):
            return value
        raise BadField(field, f"{field} must be a string, as in the shop's data; got {value!r}.")
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadField(field, f"{field} must be an integer, as in the shop's data; got {value!r}.")
    if not -(2**63) <= value < 2**63:
        raise BadField(field, f"{field} must fit into 64 bits; got {value}.")
    return value


def check_ids(values: Sequence[object], id_type: IdType, field: str) -> list[Id]:
    """Return every value as an id; the field of a wrong one names its place."""
    return [check_id(value, id_type, f"{field}[{place}]") for place, value in enumerate(values)]


def parse_id(text: str, id_type: IdType, field: str) -> Id:
    """Read an id from a path.

    Raises:
        BadField: the shop has integers, and it is none.
    """
    if id_type is IdType.STRING:
        return text
    try:
        value = int(text)
    except ValueError:
        raise BadField(field, f"{field} must be an integer, as in the shop's data.") from None
    return check_id(value, id_type, field)
