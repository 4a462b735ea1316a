"""Every feature and source has words, and the words hold the value."""

from __future__ import annotations

from math import log, nan

import pytest

from feature_repo.jobs import item_activity
from ranking.features import numeric_features
from ranking.phrases import PHRASES, SOURCES, Facts, phrase, source_phrase
from trainer.sources_config import SourceSettings

EVERY_SOURCE = tuple(SOURCES)
PAIRS = [feature.name for feature in numeric_features(EVERY_SOURCE)]
NUMBERS = [*PAIRS, *item_activity.COLUMNS, "price"]


@pytest.mark.parametrize("value", [nan, 0.0, 0.37, 1.0, 12.4])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_feature_has_words_for_every_value(name: str, value: float) -> None:
    text = phrase(name, Facts(dict.fromkeys(NUMBERS, value)))

    assert " " in text
    assert "nan" not in text
    assert "_" not in text
    assert "=" not in text


def test_every_phrase_is_of_a_feature_that_there_is() -> None:
    assert set(PHRASES) <= {*NUMBERS, "item_id"}


def test_every_source_that_can_be_fitted_has_words() -> None:
    fitted = {*SourceSettings().quotas, "blend"}

    assert fitted == set(SOURCES)
    assert all("{" not in source_phrase(name) for name in fitted)


@pytest.mark.parametrize(
    ("feature", "values", "words"),
    [
        ("own_count", {"own_count": 6, "own_days_since": 5.2}, "bought 6 times, last 5 days ago"),
        ("own_weight", {"own_count": 1, "own_days_since": 0.2}, "bought 1 time, last today"),
        ("own_weight", {}, "not bought before"),
        ("own_due", {"own_gap_mean": 14, "own_days_since": 13}, "bought every 14 days, last 13"),
        ("own_due", {"own_count": 1, "own_days_since": 1}, "bought 1 time, last 1 day ago"),
        ("own_acceleration", {"own_acceleration": 0.2}, "bought more often of late than before"),
        ("category_share", {"category_share": 0.12}, "12% of the user's purchases are in its cat"),
        ("category_share", {"category_share": 0.0}, "its category is not known"),
        ("brand_share", {"brand_share": 0.002}, "less than 1% of the user's purchases are of its"),
        ("category_lift", {"category_lift": log(2.1)}, "buys its category 2.1 times as much as"),
        ("subcategory_due", {"subcategory_due": 1.2}, "its subcategory is due (1.2 of the usual"),
        ("subcategory_due", {"subcategory_due": 0.5}, "its subcategory is not yet due (0.5 of"),
        ("price_change", {"price_change": log(0.88)}, "cheaper than usual by 12%"),
        ("price_change", {"price_change": log(1.05)}, "dearer than usual by 5%"),
        ("price_change", {"price_change": 0.0}, "as dear as usual"),
        ("trend", {"trend": log(1.4)}, "40% more buyers than in the four weeks before"),
        ("trend_7d", {"trend_7d": log(0.75)}, "25% fewer buyers than its usual in the last week"),
        ("discount_28d", {"discount_28d": 0.15}, "sold 15% below its list price"),
        ("discount_28d", {"discount_28d": 0.0}, "sold at its list price"),
        ("display_share", {"display_share": 0.3}, "on promotion: on display in 30% of the stores"),
        ("mailer_share", {"mailer_share": 0.0}, "not in the mailer"),
        ("coupons_active", {"coupons_active": 2}, "on promotion: 2 coupons"),
        ("price", {"price": 2.5}, "priced at 2.50"),
        ("first_sold_s", {"first_sold_s": 200}, "first sold 200 days ago"),
        ("num_sources", {"num_sources": 3, "best_rank": 1}, "named by 3 sources, best as number 1"),
        ("popular_score", {"popular_rank": 7, "popular_score": 0.2}, "popular now (number 7)"),
        ("popular_rank", {"popular_rank": nan}, 'not "popular now"'),
        ("ease_score", {"ease_rank": 2}, "often bought together with what the user buys (number 2"),
        ("own_source_rank", {"own_source_rank": 4}, "named by own_source (number 4)"),
    ],
)
def test_words_hold_the_value(feature: str, values: dict[str, float], words: str) -> None:
    assert words in phrase(feature, Facts(values))


def test_a_favourite_group_is_told_as_such() -> None:
    facts = Facts({"category_share": 0.3}, favourites=frozenset({"category"}))

    assert phrase("category_weight", facts) == "in the user's most bought category"


def test_what_the_user_does_not_buy_is_told_where_the_group_is_known() -> None:
    facts = Facts({"brand_share": 0.0}, texts={"brand": "B1"})

    assert phrase("brand_share", facts) == "the user buys nothing of its brand"


def test_a_source_names_the_item_of_the_history_that_led_to_it() -> None:
    facts = Facts({"ease_rank": 1.0}, together={"ease": "Milk {1 l}"})

    assert phrase("ease_score", facts) == "often bought together with Milk {1 l} (number 1)"


def test_attributes_are_told_by_their_values() -> None:
    facts = Facts({}, texts={"brand": "B1", "colour": "red"})

    assert phrase("brand", facts) == "of the brand B1"
    assert phrase("package_size", facts) == "of the package size that is not known"
    assert phrase("colour", facts) == "colour = red"
    assert phrase("item_id", facts) == "the item itself"


def test_features_of_a_shops_own_are_told_by_name_and_value() -> None:
    facts = Facts({"shelf_height": 1.25, "risk_score": nan})

    assert phrase("shelf_height", facts) == "shelf_height = 1.25"
    assert phrase("risk_score", facts) == "risk_score is not known"
