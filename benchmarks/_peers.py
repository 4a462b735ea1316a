"""Figures that papers and public leaderboards report on the splits of ``benchmarks.retrieval``."""

from __future__ import annotations

from dataclasses import dataclass

BARS = "reczoo/BARS @ 5b5e61f"
BSPM = "Choi et al., Blurring-Sharpening Process Models (2023)"
RECZOO = "RecZoo @ 88fae23"
RENDLE = "Rendle et al., NCF vs. MF Revisited (2020)"


@dataclass(frozen=True)
class Published:
    """One row of somebody else's table."""

    model: str
    recall: float
    """Recall@20; of NCF's split the hit rate at 10."""
    ndcg: float
    """NDCG@20; of NCF's split at 10."""
    source: str


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "gowalla": (
        Published("MF-BPR", 0.1627, 0.1378, BARS),
        Published("YoutubeDNN (two-tower)", 0.1754, 0.1473, BARS),
        Published("EASE", 0.1765, 0.1467, BARS),
        Published("LightGCN", 0.1820, 0.1547, BARS),
        Published("GF-CF", 0.1849, 0.1518, BARS),
        Published("UltraGCN", 0.1862, 0.1580, BARS),
        Published("SimpleX", 0.1872, 0.1557, BARS),
        Published("BSPM", 0.1920, 0.1597, BSPM),
    ),
    "amazoncds": (
        Published("NGCF", 0.1258, 0.0792, RECZOO),
        Published("BGCF", 0.1506, 0.0948, RECZOO),
        Published("UltraGCN", 0.1622, 0.1043, RECZOO),
        Published("SimpleX", 0.1763, 0.1145, RECZOO),
    ),
    "ncf": (
        Published("popularity", 0.4535, 0.2543, RENDLE),
        Published("NeuMF", 0.7093, 0.4349, RENDLE),
        Published("iALS", 0.7111, 0.4383, RENDLE),
        Published("SLIM", 0.7162, 0.4468, RENDLE),
        Published("MF, tuned", 0.7294, 0.4523, RENDLE),
    ),
}
