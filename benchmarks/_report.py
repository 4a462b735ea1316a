"""What every benchmark's result says of where it was made, and how it is printed and kept."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.dataset import REPOSITORY

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "pyarrow", "duckdb")


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, a GPU's name, and the versions of what was run."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "revision": _revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def save(name: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``benchmarks/results/<name>.json``."""
    path = RESULTS / f"{name}.json"
    command = f"python -m benchmarks.{name.partition('-')[0]}"
    said = portable(settings)
    result = {"command": command, "settings": said, "machine": machine(), "rows": list(rows)}
    write_json(path, result)
    return path


def portable(value: Any) -> Any:
    """Settings without the folders of one machine: of an absolute path what is below the working
    folder, or else its last part."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [portable(each) for each in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path = Path(value)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    heads = list(rows[0])
    cells = [[_cell(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(heads))]
    numeric = [all(isinstance(row[head], int | float) for row in rows) for head in heads]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(heads), f"| {' | '.join(rule)} |", *map(line, cells)]) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
