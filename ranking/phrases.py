"""What a ranker's features say of one candidate, in words that a merchandiser reads.

``PHRASES`` names every numeric column of the product, ``SOURCES`` every candidate source; a shop's
own features and sources are told as ``name = value``. Features that say the same of a candidate
(how often it was bought, how long ago) have one sentence between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ranking.features import SAID

SOURCES = {
    "ann": "fits the user's taste",
    "blend": "fits the user by all models together",
    "brand": "sells well in a brand and category that the user buys",
    "buy_again": "bought again and again",
    "category": "sells well in a subcategory that the user buys",
    "content": "resembles what the user buys",
    "ease": "often bought together with {what}",
    "first_time_popular": "many buy it for the first time now",
    "graph_filter": "liked by those who buy {what}",
    "item_knn": "often bought by those who buy {what}",
    "popular": "popular now",
    "segment_popular": "popular in the user's segment",
    "similar_users": "bought by similar users",
    "trending": "trending now",
}
"""What it means that a source names an item; ``{what}`` is an item of the user's history."""

WHAT = "what the user buys"
"""Where no one item of the history stands out."""


@dataclass(frozen=True)
class Facts:
    """What is known of one candidate, before encoding."""

    values: Mapping[str, float]
    """Numeric feature -> value; NaN where missing."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Categorical item feature -> value, where it is known."""
    favourites: frozenset[str] = frozenset()
    """Groups, such as "category", in which the candidate's is the one that the user buys most."""
    together: Mapping[str, str] = field(default_factory=dict)
    """Source -> title of the item of the history through which it named the candidate."""

    def __getitem__(self, name: str) -> float:
        return self.values.get(name, math.nan)


Phrase = Callable[[Facts], str]


def phrase(feature: str, facts: Facts) -> str:
    """What a feature says of a candidate; ``feature = value`` where there are no words for it."""
    if feature in PHRASES:
        return PHRASES[feature](facts)
    for said in SAID:
        source = feature.removesuffix(f"_{said}")
        if source != feature and f"{source}_rank" in facts.values:
            return _named(source, facts)
    if feature in TEXTS:
        return f"{TEXTS[feature]} {facts.texts.get(feature, 'that is not known')}"
    return _plain(feature, facts)


def source_phrase(source: str, together: str | None = None) -> str:
    """What it means that a source names an item.

    Args:
        source: its name.
        together: title of the item of the history through which it did.
    """
    words = SOURCES.get(source, f"named by {source}")
    return words.format(what=WHAT if together is None else together)


def _named(source: str, facts: Facts) -> str:
    words = source_phrase(source, facts.together.get(source))
    place = facts[f"{source}_rank"]
    return f'not "{words}"' if math.isnan(place) else f"{words} (number {place:.0f})"


def _plain(feature: str, facts: Facts) -> str:
    if feature in facts.texts:
        return f"{feature} = {facts.texts[feature]}"
    value = facts[feature]
    return f"{feature} is not known" if math.isnan(value) else f"{feature} = {value:.4g}"


def _some(value: float) -> bool:
    """Whether a value is known and above zero."""
    return value > 0


def _percent(share: float) -> str:
    return "less than 1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def _many(count: float, noun: str) -> str:
    number = f"{count:.0f}"
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def _ago(days: float) -> str:
    return "today" if days < 0.5 else f"{_many(days, 'day')} ago"


def _known(name: str, words: Callable[[float], str], missing: str) -> Phrase:
    """Words for a value, and for a missing one."""

    def of(facts: Facts) -> str:
        value = facts[name]
        return missing if math.isnan(value) else words(value)

    return of


_NEVER = "not bought before"
_NOTHING = "the user buys nothing"


def _bought(facts: Facts) -> str:
    if not _some(facts["own_count"]):
        return _NEVER
    times = _many(facts["own_count"], "time")
    return f"bought {times}, last {_ago(facts['own_days_since'])}"


def _rhythm(facts: Facts) -> str:
    gap = facts["own_gap_mean"]
    if math.isnan(gap):
        return _bought(facts)
    return f"bought every {_many(gap, 'day')}, last {_ago(facts['own_days_since'])}"


def _faster(value: float) -> str:
    return f"bought {'more' if value > 0 else 'less'} often of late than before"


def _visits(value: float) -> str:
    return "bought at the last visit" if value < 0.5 else f"last bought {_many(value, 'visit')} ago"


def _in_group(group: str, within: str) -> Phrase:
    """How much of the user's purchases are in the candidate's group."""

    def share(facts: Facts) -> str:
        if group in facts.favourites:
            return f"{within} the user's most bought {group}"
        if not _some(facts[f"{group}_share"]):
            known = group in facts.texts
            return f"{_NOTHING} {within} its {group}" if known else f"its {group} is not known"
        part = _percent(facts[f"{group}_share"])
        return f"{part} of the user's purchases are {within} its {group}"

    return share


_DEPARTMENT = _in_group("department", "in")
_CATEGORY = _in_group("category", "in")
_SUBCATEGORY = _in_group("subcategory", "in")
_BRAND = _in_group("brand", "of")


def _own_label(facts: Facts) -> str:
    """Of the pair of brand and subcategory."""
    verb = "buys" if _some(facts["brand_subcategory_weight"]) else "does not buy"
    return f"the user {verb} this brand in its subcategory"


def _since(group: str, within: str) -> Phrase:
    def words(days: float) -> str:
        return f"the user last bought {within} its {group} {_ago(days)}"

    return _known(f"{group}_days_since", words, f"{_NOTHING} {within} its {group}")


def _due(feature: str, words: str, otherwise: Phrase) -> Phrase:
    """Days since the last purchase over the usual gap."""

    def due(facts: Facts) -> str:
        ratio = facts[feature]
        if math.isnan(ratio):
            return otherwise(facts)
        when = "due" if ratio >= 0.8 else "not yet due"
        return f"{words} is {when} ({ratio:.1f} of the usual gap)"

    return due


def _against(name: str, usual: str, missing: str) -> Phrase:
    """Words for the log of a price over a usual one."""

    def words(value: float) -> str:
        change = math.expm1(value)
        if abs(change) < 0.005:
            return f"as dear as {usual}"
        return f"{'cheaper' if change < 0 else 'dearer'} than {usual} by {_percent(abs(change))}"

    return _known(name, words, missing)


def _lift(group: str) -> Phrase:
    def words(value: float) -> str:
        times = math.exp(value)
        if times < 1.05:
            return f"the user buys its {group} no more than others do"
        return f"the user buys its {group} {times:.1f} times as much as others do"

    return _known(f"{group}_lift", words, f"its {group} is not known")


def _chosen(name: str, where: str) -> Phrase:
    """The item's share of its group's recent buyers."""

    def words(share: float) -> str:
        return f"{_percent(share)} of {where}'s buyers buy it"

    return _known(name, words, f"{where} has no buyers")


_OF_CATEGORY = _chosen("share_of_category_buyers", "its category")
_OF_SUBCATEGORY = _chosen("share_of_subcategory_buyers", "its subcategory")
_OF_BRAND = _chosen("share_of_brand_subcategory_buyers", "its brand in its subcategory")


def _expected(weight: str, share: Phrase, otherwise: Phrase) -> Phrase:
    """Purchases of the item if the user chose within the group as everybody does."""

    def expected(facts: Facts) -> str:
        return (
            f"{share(facts)}, and the user buys there" if _some(facts[weight]) else otherwise(facts)
        )

    return expected


def _several(facts: Facts) -> str:
    count, best = facts["num_sources"], facts["best_rank"]
    if not _some(count):
        return "named by no source"
    return f"named by {_many(count, 'source')}, best as number {best:.0f}"


def _trend(name: str, against: str) -> Phrase:
    """Words for the log of buyers over the buyers of a time before."""

    def words(value: float) -> str:
        change = math.expm1(value)
        if abs(change) < 0.005:
            return f"as many buyers as {against}"
        return f"{_percent(abs(change))} {'more' if change > 0 else 'fewer'} buyers than {against}"

    return _known(name, words, "its trend is not known")


def _buyers(name: str, noun: str, when: str) -> Phrase:
    return _known(name, lambda value: f"{_many(value, noun)} {when}", f"no {noun} is known {when}")


def _shared(name: str, words: str, missing: str) -> Phrase:
    return _known(name, lambda value: f"{_percent(value)} {words}", missing)


def _priced(name: str, words: str) -> Phrase:
    return _known(name, lambda value: f"{words} {value:.2f}", "its price is not known")


def _promoted(name: str, how: str) -> Phrase:
    def words(share: float) -> str:
        if not _some(share):
            return f"not {how}"
        return f"on promotion: {how} in {_percent(share)} of the stores"

    return _known(name, words, "promotions are not known")


def _discount(share: float) -> str:
    below = f"{_percent(share)} below its list price"
    return f"sold {below}" if share >= 0.005 else "sold at its list price"


def _coupons(count: float) -> str:
    return f"on promotion: {_many(count, 'coupon')}" if _some(count) else "no coupon"


_RANKED_ALIKE = dict.fromkeys(("num_sources", "best_rank", "mean_reciprocal_rank"), _several)
_OWN = dict.fromkeys(("own_count", "own_weight", "own_days_since"), _bought)
_RHYTHM = dict.fromkeys(
    (
        "own_gap_mean",
        "own_gap_deviation",
        "own_gap_last",
        "own_due",
        "own_overdue",
        "gap_expected",
        "due_expected",
        "due_usual",
        "due_last",
        "days_before_visit",
    ),
    _rhythm,
)

PHRASES: Mapping[str, Phrase] = {
    **_OWN,
    **_RHYTHM,
    **_RANKED_ALIKE,
    "item_id": lambda facts: "the item itself",
    "own_share": _shared("own_share", "of the user's purchases are of this item", _NEVER),
    "own_place": _known("own_place", lambda n: f"number {n:.0f} of what the user buys", _NEVER),
    "own_age": _known("own_age", lambda days: f"first bought {_ago(days)}", _NEVER),
    "own_rate": _known("own_rate", lambda n: f"bought {n:.1f} times in four weeks", _NEVER),
    "own_acceleration": _known("own_acceleration", _faster, _NEVER),
    "own_share_of_visits": _shared(
        "own_share_of_visits", "of the user's visits had it in the basket", _NEVER
    ),
    "visits_since": _known("visits_since", _visits, _NEVER),
    "department_share": _DEPARTMENT,
    "category_share": _CATEGORY,
    "category_weight": _CATEGORY,
    "category_days_since": _since("category", "in"),
    "subcategory_share": _SUBCATEGORY,
    "subcategory_weight": _SUBCATEGORY,
    "subcategory_top": _SUBCATEGORY,
    "subcategory_days_since": _since("subcategory", "in"),
    "subcategory_due": _due("subcategory_due", "its subcategory", _SUBCATEGORY),
    "share_of_subcategory": _shared(
        "share_of_subcategory", "of what the user buys in its subcategory", _NEVER
    ),
    "brand_share": _BRAND,
    "brand_days_since": _since("brand", "of"),
    "brand_subcategory_weight": _own_label,
    "brand_subcategory_top": _own_label,
    "brand_subcategory_due": _due(
        "brand_subcategory_due", "its brand in its subcategory", _own_label
    ),
    "price_to_usual": _against(
        "price_to_usual",
        "what the user pays in its subcategory",
        "its usual price is not known",
    ),
    "history_new_share": _shared(
        "history_new_share", "of the user's items are new to the user", "the user has no history"
    ),
    "history_once_share": _shared(
        "history_once_share", "of the user's items were bought once", "the user has no history"
    ),
    "history_concentration": _known(
        "history_concentration",
        lambda value: f"the user buys {'few' if value > 0.1 else 'many'} different items",
        "the user has no history",
    ),
    "department_lift": _lift("department"),
    "category_lift": _lift("category"),
    "subcategory_lift": _lift("subcategory"),
    "brand_lift": _lift("brand"),
    "share_of_category_buyers": _OF_CATEGORY,
    "share_of_subcategory_buyers": _OF_SUBCATEGORY,
    "share_of_brand_subcategory_buyers": _OF_BRAND,
    "expected_in_subcategory": _expected("subcategory_weight", _OF_SUBCATEGORY, _SUBCATEGORY),
    "expected_in_brand_subcategory": _expected("brand_subcategory_weight", _OF_BRAND, _own_label),
    "first_share": _shared(
        "first_share", "of its recent buyers had not bought it before", "no recent buyer"
    ),
    "trend_7d": _trend("trend_7d", "its usual in the last week"),
    "price_change": _against("price_change", "usual", "its usual price is not known"),
    "price": _priced("price", "priced at"),
    "price_28d": _priced("price_28d", "priced of late at"),
    "price_usual": _priced("price_usual", "usually priced at"),
    "discount_28d": _known("discount_28d", _discount, "its list price is not known"),
    "display_share": _promoted("display_share", "on display"),
    "mailer_share": _promoted("mailer_share", "in the mailer"),
    "coupons_active": _known("coupons_active", _coupons, "promotions are not known"),
    "buyers_total": _buyers("buyers_total", "buyer", "so far"),
    "buyers_28d": _buyers("buyers_28d", "buyer", "in four weeks"),
    "buyers_7d": _buyers("buyers_7d", "buyer", "in the last week"),
    "purchases_28d": _buyers("purchases_28d", "purchase", "in four weeks"),
    "first_buyers_28d": _buyers("first_buyers_28d", "first-time buyer", "in four weeks"),
    "repeat_rate": _shared("repeat_rate", "of its buyers bought it again", "no buyer yet"),
    "gap_usual": _known(
        "gap_usual",
        lambda days: f"those who buy it again do so after {_many(days, 'day')}",
        "nobody bought it twice yet",
    ),
    "trend": _trend("trend", "in the four weeks before"),
    "first_sold_s": _known("first_sold_s", lambda d: f"first sold {_ago(d)}", "not sold before"),
}
"""Feature -> words."""

TEXTS = {
    "department": "of the department",
    "category": "of the category",
    "subcategory": "of the subcategory",
    "brand": "of the brand",
    "brand_tier": "of the brand tier",
    "package_size": "of the package size",
}
"""Item feature that is read from a table -> words before its value."""
