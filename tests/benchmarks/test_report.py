from __future__ import annotations

from pathlib import Path

from benchmarks._report import portable


def test_settings_name_no_folder_of_this_machine() -> None:
    here = Path.cwd()
    settings = {"data": str(here / "data" / "x"), "given": ["/elsewhere/ml-1m", "data/y"], "k": 10}

    assert portable(settings) == {"data": "data/x", "given": ["ml-1m", "data/y"], "k": 10}
