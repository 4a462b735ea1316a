"""Requests made up from the interface's own description, right and wrong ones: no 5xx, no hang.

Schemathesis draws requests that fit the OpenAPI schema and requests that break it; some are then
mangled byte by byte. A server of its own answers them. Every answer has to come in time, with a
status and a body that the description names.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from rich.console import Console
from rich.table import Table
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks._command import run_command
from benchmarks._faults_parts import Releases, ServerProcess, Store
from benchmarks._report import save
from feature_repo.contract.errors import ConfigError, ShoprecError
from serving.about import require_release

log = logging.getLogger("benchmarks.fuzz")

HELP = """\
python -m benchmarks.fuzz [KEY=VALUE ...]

  release=releases/current  the release that is served
  cases=10000            requests, over all operations
  seed=0                 of the bytes that are mangled
  name=fuzz              benchmarks/results/<name>.json
"""
LONGEST_S = 10.0
"""After this time without an answer the server hangs."""
MANGLED = 0.2
"""Share of the requests with a body that are mangled."""
SHOWN = 3
"""Failures that are told of one operation."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
Case = Any
"""A request that was drawn: ``schemathesis.Case``."""
Send = Callable[[Case, bytes | None], Any]
"""Sends a request, with another body where bytes are given; the answer."""


@dataclass
class Config:
    """Settings of the benchmark."""

    release: str = "releases/current"
    cases: int = 10_000
    seed: int = 0
    name: str = "fuzz"

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise ConfigError(f"cases must be at least 1; got {self.cases}.")


@dataclass
class Probed:
    """What became of the requests to one operation."""

    operation: str
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    failures: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        classes = Counter[str]()
        for status, count in self.statuses.items():
            classes[f"{status // 100}xx"] += count
        return {
            "operation": self.operation,
            "cases": self.statuses.total(),
            **{name: classes[name] for name in ("2xx", "4xx", "5xx")},
            "slowest_ms": round(self.slowest_ms, 1),
            "failures": len(self.failures),
        }


def fuzz(schema: schemathesis.BaseSchema, send: Send, cases: int, seed: int) -> list[Probed]:
    """Send requests to every operation of an interface.

    Args:
        schema: its description.
        send: how.
        cases: about how many requests.
        seed: of the bytes that are mangled.
    """
    random, found = np.random.default_rng(seed), []
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    weights = [_weight(operation) for operation in operations]
    for operation, weight in zip(operations, weights, strict=True):
        probed = Probed(operation.label)
        count = max(2, round(cases * weight / sum(weights)))
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            _draw(strategy, count // 2, partial(_probe, send, random, probed))
        found.append(probed)
    return found


def _weight(operation: Any) -> int:
    """How many requests an operation has, over those of one that takes nothing."""
    return 8 if operation.body else 2 if len(operation.path_parameters) else 1


def _draw(strategy: Any, count: int, work: Callable[[Case], None]) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def drawn(case: Case) -> None:
        work(case)

    try:
        drawn()
    except Unsatisfiable:  # there is no wrong request where nothing can be said
        return


def _probe(send: Send, random: np.random.Generator, probed: Probed, case: Case) -> None:
    """Send one request and judge the answer."""
    body = None
    if isinstance(case.body, dict | list) and random.random() < MANGLED:
        body = mangled(case, random)
    started = time.perf_counter()
    try:
        answer = send(case, body)
    except (requests.RequestException, OSError) as error:
        probed.statuses[599] += 1
        _tell(probed, case, repr(error))
        return
    probed.slowest_ms = max(probed.slowest_ms, (time.perf_counter() - started) * 1000.0)
    probed.statuses[answer.status_code] += 1
    if answer.status_code >= 500:
        _tell(probed, case, answer.text[:300])
    elif body is None:
        try:
            case.validate_response(answer, checks=CHECKS)
        except (FailureGroup, AssertionError) as error:
            _tell(probed, case, str(error)[:600])


def mangled(case: Case, random: np.random.Generator) -> bytes:
    """The request's body with some bytes left out, doubled or changed."""
    content = bytearray(json.dumps(case.body).encode())
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(0, max(1, len(content))))
        match int(random.integers(3)):
            case 0:
                del content[place : place + int(random.integers(1, 8))]
            case 1:
                content[place:place] = content[place : place + 8]
            case _:
                content[place : place + 1] = bytes([int(random.integers(256))])
    return bytes(content)


def _tell(probed: Probed, case: Case, what: str) -> None:
    probed.failures.append(what)
    if len(probed.failures) <= SHOWN:
        log.error("%s\n%s", what, case.as_curl_command()[:2000])


def over_http(url: str) -> Send:
    """Send over the network."""
    session = requests.Session()

    def send(case: Case, body: bytes | None) -> Any:
        if body is None:
            return case.call(base_url=url, session=session, timeout=LONGEST_S)
        headers = {"content-type": "application/json"}
        path = case.formatted_path
        return session.request(
            case.method, f"{url}{path}", data=body, headers=headers, timeout=LONGEST_S
        )

    return send


def benchmark(config: Config) -> list[Probed]:
    """Start a server, ask it, and stop it."""
    release = require_release(Path(config.release))
    with tempfile.TemporaryDirectory(prefix="shoprec-fuzz-") as name:
        folder = Path(name)
        store = Store(folder / "store", release)
        releases = Releases(folder / "releases", release)
        server = ServerProcess(folder / "server", releases.folder, store.port, workers=1)
        try:
            server.start()
            schema = openapi.from_url(f"{server.url}/openapi.json")
            return fuzz(schema, over_http(server.url), config.cases, config.seed)
        finally:
            server.stop()
            store.stop()


def work(config: Config) -> None:
    """Run, print and keep.

    Raises:
        ShoprecError: an answer was a 5xx, late, or not as described.
    """
    found = benchmark(config)
    rows = [probed.row() for probed in found]
    table = Table(title="Requests made up from the interface's description")
    for head in rows[0]:
        table.add_column(head.replace("_", " "), justify="left" if head == "operation" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(file=sys.stdout, width=120).print(table)
    log.info("Wrote %s.", save(config.name, asdict(config), rows))
    failures = sum(row["failures"] for row in rows)
    if failures:
        raise ShoprecError(f"{failures} answers were not as described; see above.")


def main() -> int:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return run_command(sys.argv[1:], Config, HELP, work)


if __name__ == "__main__":
    sys.exit(main())
