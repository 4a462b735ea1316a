"""The README's commands, typed as they stand there, on a sample of 200 households."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = ("benchmarks", "conf", "feature_repo", "ranking", "retrieval", "serving", "trainer")

ANY_USER = (
    'python -c "import pyarrow.parquet as pq; '
    "print(pq.read_table('data/complete_journey/canonical/users.parquet')['user_id'][0])\""
)
"""A household of the sample; the README asks for household 1."""


def block(text: str, name: str) -> str:
    """The bash block between two markers of the README."""
    found = re.search(rf"<!-- {name}:begin -->\n```bash\n(.*?)```\n<!-- {name}:end -->", text, re.S)
    assert found is not None, f"The README has no block {name}."
    return found[1]


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A copy of the code, so that the commands touch no data of this checkout."""
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_stages_run_as_they_stand_in_the_readme(repository: Path, checkout: Path) -> None:
    script = block((repository / "README.md").read_text(encoding="utf-8"), "stages")
    script = script.replace(". .venv/bin/activate\n", "")
    script = script.replace("ingest data=complete_journey", "ingest data.max_users=200")
    script = script.replace("--user 1 ", f'--user "$({ANY_USER})" ')
    environment = {
        **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "SHOPREC_ONLINE": str(checkout / "data" / "online"),
    }

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert "own frequency" in done.stdout
    assert (checkout / "releases" / "current" / "manifest.json").exists()
    assert (checkout / "evaluation" / "ndcg.png").exists()
