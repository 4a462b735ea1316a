"""Feast's command line, with the time of pulling and writing a view kept aside.

``python -m benchmarks._timed_feast OUT.json ARGUMENTS...`` is ``feast ARGUMENTS...``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from feast.cli.cli import cli
from feast.infra.passthrough_provider import PassthroughProvider


def main(out: Path, arguments: list[str]) -> None:
    """Run the command; write seconds on the clock and of the processor."""
    plain = PassthroughProvider.materialize_single_feature_view
    spent = {"stage_s": 0.0, "stage_cpu_s": 0.0}

    def timed(*values: Any, **named: Any) -> None:
        started, used = time.monotonic(), time.process_time()
        plain(*values, **named)
        spent["stage_s"] += time.monotonic() - started
        spent["stage_cpu_s"] += time.process_time() - used

    PassthroughProvider.materialize_single_feature_view = timed  # type: ignore[method-assign]
    try:
        cli(arguments, standalone_mode=False)
    finally:
        PassthroughProvider.materialize_single_feature_view = plain  # type: ignore[method-assign]
    out.write_text(json.dumps(spent), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
