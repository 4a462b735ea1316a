"""Shops that a monitor looks at in simulations: features of users, and what they click in weeks.

Features have the shapes that a shop's have: normal, with a long tail, counts with many ties, zeros
in most rows, categories with rare values, each missing in some rows. Or they are a real shop's
rows, of which reference and served rows are drawn anew each time.

Users click by an interest of their own that stays, and that differs a lot; weeks differ beyond
their users by ``WEEKS``. Scores say how likely a click is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from serving.monitor.joined import Shown

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ITEMS, PLACES = 2_000, 10
INTEREST = (2.0, 38.0)
"""Beta distribution of users' click-through: 5% in the mean."""
WEEKS = 0.02
"""Standard deviation of a whole week's click-through, relative."""
TAKEN = 0.3
"""Of the items clicked, the share that is put into a basket."""
NUMBERS, CATEGORIES = 16, 8
CHANGED_NUMBER, CHANGED_CATEGORY = "number_0", "category_0"
"""In which drifts are planted."""


def schema() -> Schema:
    """Sixteen numbers and eight categories."""
    numbers = [_feature(f"number_{n}", "Float32", Encoding.NUMERIC) for n in range(NUMBERS)]
    texts = [_feature(f"category_{n}", "String", Encoding.CATEGORICAL) for n in range(CATEGORIES)]
    return Schema("simulated", (*numbers, *texts))


def _feature(name: str, dtype: str, encoding: Encoding) -> Feature:
    return Feature(name, Entity.USER, "simulated", dtype, encoding, buckets=16)


def feature_rows(random: np.random.Generator, rows: int) -> pa.Table:
    """Users' features, none of which has drifted."""
    columns: dict[str, pa.Array] = {}
    for number in range(NUMBERS):
        columns[f"number_{number}"] = _missing(random, _number(random, number % 4, rows), number)
    for number in range(CATEGORIES):
        shares = random_shares(number)
        codes = random.choice(len(shares), rows, p=shares)
        texts = np.array([f"v{code}" for code in range(len(shares))])[codes]
        columns[f"category_{number}"] = _missing(random, texts, number)
    return pa.table(columns)


def random_shares(number: int) -> Doubles:
    """Zipf's shares of a category's 4 to 60 values."""
    shares = 1.0 / np.arange(1, 5 + 8 * number)
    return np.asarray(shares / shares.sum())


def _number(random: np.random.Generator, shape: int, rows: int) -> Doubles:
    match shape:
        case 0:
            return random.normal(size=rows)
        case 1:
            return random.lognormal(sigma=1.2, size=rows)
        case 2:
            return random.poisson(3.0, rows).astype(np.float64)
        case _:
            return np.where(random.random(rows) < 0.7, 0.0, random.gamma(2.0, 5.0, rows))


def _missing(random: np.random.Generator, values: npt.NDArray[np.generic], number: int) -> pa.Array:
    """A fifth of every second feature is missing."""
    share = 0.2 if number % 2 == 0 else 0.0
    return pa.array(values, mask=random.random(len(values)) < share)


def shifted(rows: pa.Table, name: str, deviations: float) -> pa.Table:
    """With a number's mean moved by so many of its standard deviations."""
    values = np.asarray(rows.column(name).combine_chunks().cast(pa.float64()).fill_null(np.nan))
    moved = values + deviations * np.nanstd(values)
    column = pa.array(moved, pa.float64(), mask=np.isnan(values))
    return rows.set_column(rows.column_names.index(name), name, column)


def emptied(random: np.random.Generator, rows: pa.Table, name: str, points: float) -> pa.Table:
    """With so many hundredths of all values missing that were there."""
    column = rows.column(name).combine_chunks()
    present = 1.0 - column.null_count / len(column)
    lost = random.random(len(column)) < points / 100.0 / present
    kept = pc.if_else(pa.array(lost), pa.scalar(None, column.type), column)
    return rows.set_column(rows.column_names.index(name), name, kept)


@dataclass(frozen=True)
class Weeks:
    """What is planted into the recent week."""

    fall: float = 0.0
    """Of the click-through, as a share."""
    shift: float = 0.0
    """Of the scores, in standard deviations; clicks stay as they are."""


def answers(
    random: np.random.Generator, users: int, blocks: int, planted: Weeks | None = None
) -> Shown:
    """A recent week and weeks before it; about half of the users come in each."""
    planted = planted or Weeks()
    interest = random.beta(*INTEREST, users)
    rate = random.gamma(1.0, 1.5, users)
    parts = [_week(random, window, interest, rate, planted) for window in range(blocks + 1)]
    user_A = np.concatenate([part[0] for part in parts])
    window_A = np.repeat(np.arange(blocks + 1), [len(part[0]) for part in parts])
    popularity = 1.0 / np.arange(1, ITEMS + 1) ** 0.8
    number = len(user_A) * PLACES
    clicked = np.concatenate([part[2] for part in parts])
    return Shown(
        users=list(range(users)),
        items=list(range(ITEMS)),
        user_A=user_A,
        window_A=window_A,
        at_A=-window_A.astype(np.float64),
        version_A=np.full(len(user_A), "1"),
        answer_P=np.repeat(np.arange(len(user_A)), PLACES),
        item_P=random.choice(ITEMS, number, p=popularity / popularity.sum()),
        score_P=np.concatenate([part[1] for part in parts]),
        first_P=np.arange(number) % PLACES == 0,
        clicked_P=clicked,
        taken_P=clicked & (random.random(number) < TAKEN),
    )


def _week(
    random: np.random.Generator, window: int, interest: Doubles, rate: Doubles, planted: Weeks
) -> tuple[Ints, Doubles, npt.NDArray[np.bool_]]:
    """Users of the week's answers, scores of their places, and what was clicked."""
    users = np.repeat(np.arange(len(rate)), random.poisson(rate))
    users = users[random.permutation(len(users))]
    own = np.repeat(interest[users], PLACES)
    score = random.normal(np.log(own), 1.0)
    week = 1.0 + WEEKS * random.normal()
    fall = planted.fall if window == 0 else 0.0
    likely = own * np.exp(0.5 * (score - np.log(own)) - 0.125) * week * (1.0 - fall)
    clicked = random.random(len(own)) < np.minimum(likely, 1.0)
    if window == 0:
        score = score + planted.shift * score.std()
    return users, score, clicked
