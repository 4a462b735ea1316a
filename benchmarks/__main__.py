"""List the benchmarks: ``python -m benchmarks``."""

from __future__ import annotations

import ast
import pkgutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def summary(source: str) -> str:
    """Return the first line of a module's docstring, or an empty text."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def listing(folder: Path) -> dict[str, str]:
    """Names of the benchmarks in ``folder`` with their first docstring lines; none is imported."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules([str(folder)])
        if not module.ispkg and not module.name.startswith("_")
    )
    return {name: summary((folder / f"{name}.py").read_text(encoding="utf-8")) for name in names}


def render(benchmarks: dict[str, str]) -> str:
    """Return the list as lines of text."""
    if not benchmarks:
        return "There are no benchmarks yet.\n"
    width = max(map(len, benchmarks))
    lines = [f"  python -m benchmarks.{name:<{width}}  {text}" for name, text in benchmarks.items()]
    return "\n".join(["Benchmarks:", *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(render(listing(FOLDER)))
