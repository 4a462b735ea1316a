"""What ``make quickstart`` shows at its end: answers of the real server, results, times."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.embedded import free_port
from feature_repo.contract.errors import ShoprecError
from trainer.evaluation.markdown import TITLES, decimal, interval, percent
from trainer.evaluation.result import Evaluation, MethodResult
from trainer.stages import StageResult

log = logging.getLogger(__name__)

READY_S = 120.0
"""Seconds that the server may take to verify and warm its release."""


class ServerFailed(ShoprecError):
    """The server did not start, or did not answer."""


@contextmanager
def server(release: Path) -> Iterator[str]:
    """Run ``python -m serving`` on a free port; yields its URL once it is ready.

    Raises:
        ServerFailed: it ended, or was not ready in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "serving", "--release", str(release)]
    command += ["--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"The server ended with code {process.returncode}; see above.")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise ServerFailed(f"The server was not ready after {READY_S:.0f} s.")


def recommend(url: str, user_id: int | str, n: int) -> dict[str, Any]:
    """The server's answer to ``POST /recommend/`` for one user.

    Raises:
        ServerFailed: it refused, or did not answer.
    """
    body = json.dumps({"user_id": user_id, "n": n}).encode()
    request = urllib.request.Request(
        f"{url}/recommend/", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise ServerFailed(f"The server refused: {error.read().decode()}") from error
    except OSError as error:
        raise ServerFailed(f"The server did not answer: {error}") from error
    assert isinstance(answer, dict)
    return answer


def show_answers(
    console: Console, release: Path, users: Sequence[tuple[int | str, str]], n: int = 5
) -> None:
    """Start the server, ask for the lists of ``users`` (id, what they are), and print them."""
    with server(release) as url:
        for user_id, what in users:
            answer = recommend(url, user_id, n)
            table = Table(title=f"{what} {user_id}", title_justify="left", title_style="bold")
            for column in ("", "product", "category", "price", "because", "score"):
                table.add_column(column)
            for item in answer["items"]:
                table.add_row(*_item_row(item))
            console.print(table)
            console.print(f"  answered in {answer['took_ms']:.1f} ms", style="dim")


def _item_row(item: dict[str, Any]) -> tuple[str, ...]:
    price, score = item.get("price"), item.get("score")
    return (
        str(item["position"]),
        str(item.get("title") or item["item_id"]),
        str(item.get("category") or ""),
        "" if price is None else f"{price:.2f}",
        str(item["source"]).replace("_", " "),
        "" if score is None else f"{score:.2f}",
    )


def show_results(console: Console, folder: Path) -> None:
    """Print the main figures of an evaluation; its folder holds the rest."""
    evaluation = Evaluation.load(folder / "evaluation.json")
    for name, task in evaluation.tasks.items():
        table = Table(
            title=f"{TITLES.get(name, name)}: {task.users:,} users, {evaluation.split}, "
            f"top {evaluation.k}",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("")
        for title in ("NDCG", "95% interval", "precision", "recall", "hit rate", "coverage"):
            table.add_column(title, justify="right")
        for method in task.methods:
            style = "bold" if method.is_system else ""
            table.add_row(*_result_row(method), style=style)
        console.print(table)


def _result_row(method: MethodResult) -> tuple[str, ...]:
    ndcg = method.metrics["ndcg"]
    shares = (method.metrics[name].mean for name in ("precision", "recall", "hit_rate"))
    return (
        method.label,
        decimal(ndcg.mean),
        interval(ndcg),
        *(decimal(share) for share in shares),
        percent(method.coverage),
    )


def show_stages(console: Console, results: Sequence[StageResult]) -> None:
    """Print the time and the memory of each stage."""
    table = Table(title="Stages", title_justify="left", title_style="bold")
    for column, justify in (("stage", "left"), ("time", "right"), ("peak memory", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    for result in results:
        table.add_row(
            result.stage.name,
            f"{result.seconds:.1f} s",
            f"{result.peak_gb:.2f} GB",
            "reused" if result.reused else "",
        )
    spent = sum(result.seconds for result in results if not result.reused)
    peak = max((result.peak_gb for result in results), default=0.0)
    table.add_section()
    table.add_row("this run", f"{spent:.1f} s", f"{peak:.2f} GB")
    console.print(table)


def sample_users(lists: Path, count: int = 3) -> list[int | str]:
    """Some users of a file of lists, evenly spread."""
    import pyarrow.compute as pc

    from feature_repo.contract.artifacts import read_table

    ids: list[int | str] = pc.unique(
        read_table(lists, columns=["user_id"]).column("user_id")
    ).to_pylist()
    step = max(len(ids) // (count + 1), 1)
    return ids[step::step][:count]
