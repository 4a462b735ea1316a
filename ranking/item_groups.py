"""Groups of items that popularity leaves behind: new ones, small brands, the long tail.

R item rows; row 0 is "unknown" and of no group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import column_of

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.number]

NEW_DAYS = 84.0
"""Items first sold within so many days are new."""
TAIL = 0.2
"""The long tail, and small brands: the least bought, which together have this share of buyers."""
DAY_S = 86_400.0
NEW, SMALL_BRAND, LONG_TAIL = "new items", "small brands", "long tail"


def item_groups(
    buyers_R: Numbers,
    first_sold_s_R: Numbers | None,
    brand_R: npt.NDArray[np.integer] | None,
    now_s: float,
) -> dict[str, Bools]:
    """Group -> [R] whether an item is of it; groups that the shop cannot tell are left out.

    Args:
        buyers_R: users who bought each item; row 0 is left out.
        first_sold_s_R: epoch seconds of the first sale, NaN where unknown; None: no shop knows.
        brand_R: code of each item's brand, 0 where unknown; None: the shop has no brands.
        now_s: epoch seconds.
    """
    known = np.arange(len(buyers_R)) > 0
    found = {LONG_TAIL: least_bought(buyers_R) & known}
    if first_sold_s_R is not None and np.isfinite(first_sold_s_R).any():
        with np.errstate(invalid="ignore"):
            found[NEW] = (first_sold_s_R >= now_s - NEW_DAYS * DAY_S) & known
    if brand_R is not None and (brand_R > 0).any():
        weight = np.where(brand_R > 0, buyers_R, 0)
        totals = np.bincount(brand_R, weights=weight)
        small = least_bought(totals)
        small[0] = False
        found[SMALL_BRAND] = small[brand_R] & known
    return {name: found[name] for name in (NEW, SMALL_BRAND, LONG_TAIL) if name in found}


def least_bought(buyers_R: Numbers, share: float = TAIL) -> Bools:
    """[R] the least bought items, which together have at most a share of all buyers.

    Items with equally many buyers are in or out together.
    """
    values, counts = np.unique(buyers_R, return_counts=True)
    together = np.cumsum(values * counts)
    inside = values[together <= share * max(float(together[-1]), 0.0)]
    return np.asarray(buyers_R <= inside[-1]) if len(inside) else np.zeros(len(buyers_R), bool)


def groups_of_table(items: pa.Table, now_s: float) -> dict[str, Bools]:
    """Group -> [len(items) + 1] whether an item is of it, by a release's table of items.

    Place 0 is an unknown item's; place n + 1 is that of the table's row n.
    """
    names = set(items.column_names)

    def numbers(name: str) -> npt.NDArray[np.float64] | None:
        if name not in names:
            return None
        column = column_of(items, name).cast(pa.float64())
        values = np.asarray(column.fill_null(np.nan), dtype=np.float64)
        return np.concatenate([[np.nan], values])

    buyers = numbers("buyers_total")
    if buyers is None:
        return {}
    brand = None
    if "brand" in names:
        codes = pc.dictionary_encode(column_of(items, "brand").cast(pa.string())).indices
        brand = np.concatenate([[0], np.asarray(codes.fill_null(-1), dtype=np.int64) + 1])
    return item_groups(np.nan_to_num(buyers), numbers("first_sold_s"), brand, now_s)
