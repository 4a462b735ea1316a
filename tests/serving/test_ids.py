from __future__ import annotations

import pytest

from feature_repo.contract.dataset import IdType
from serving.ids import BadField, check_id, check_ids


@pytest.mark.parametrize(("value", "kind"), [(7, IdType.INT64), ("7", IdType.STRING)])
def test_an_id_of_the_shops_type_keeps_it(value: int | str, kind: IdType) -> None:
    assert check_id(value, kind, "user_id") is value


@pytest.mark.parametrize("value", ["7", 7.0, True, None, [7]])
def test_an_integer_shop_takes_integers_alone(value: object) -> None:
    with pytest.raises(BadField, match="user_id must be an integer") as caught:
        check_id(value, IdType.INT64, "user_id")

    assert caught.value.field == "user_id"


@pytest.mark.parametrize("value", [7, None, b"7"])
def test_a_string_shop_takes_strings_alone(value: object) -> None:
    with pytest.raises(BadField, match="item_id must be a string"):
        check_id(value, IdType.STRING, "item_id")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_an_integer_past_64_bits_is_refused(value: int) -> None:
    with pytest.raises(BadField, match="must fit into 64 bits"):
        check_id(value, IdType.INT64, "user_id")


def test_a_wrong_id_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(BadField, match=r"exclude\[1\] must be an integer"):
        check_ids([1, "2"], IdType.INT64, "exclude")
