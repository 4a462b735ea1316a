from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.errors import ConfigError
from serving.settings import Settings, is_loopback, require_keys


def test_variables_that_are_set_are_read_in_their_types() -> None:
    environment = {
        "SHOPREC_RELEASE": "/releases/current",
        "SHOPREC_API_KEYS": "one, two,",
        "SHOPREC_QUEUE": "7",
        "SHOPREC_DEADLINE_MS": "250",
        "SHOPREC_WORKERS": "",
        "OTHER": "1",
    }

    settings = Settings.from_environment(environment)

    assert settings.release == Path("/releases/current")
    assert settings.api_keys == ("one", "two")
    assert (settings.queue, settings.deadline_ms, settings.workers) == (7, 250.0, 1)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SHOPREC_QUEUE", "many", "SHOPREC_QUEUE='many' is not of type int"),
        ("SHOPREC_QUEUE", "0", "SHOPREC_QUEUE must be above zero; got 0"),
        ("SHOPREC_DEADLINE_MS", "-1", "SHOPREC_DEADLINE_MS must be above zero"),
        ("SHOPREC_WATCH_S", "-1", "SHOPREC_WATCH_S must not be below zero"),
    ],
)
def test_what_does_not_hold_is_refused(name: str, value: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Settings.from_environment({name: value})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    require_keys(host, (), without=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "shop.example"])
def test_other_addresses_need_keys_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="lets others in, and SHOPREC_API_KEYS names no API keys"):
        require_keys(host, (), without=False)

    require_keys(host, ("key",), without=False)
    require_keys(host, (), without=True)
