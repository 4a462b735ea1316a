from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from tests.serving.shop import TinyShop


def test_without_a_release_the_command_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--release", str(tmp_path / "current")]) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"There is no release at {tmp_path / 'current'}.")
    assert "Run `make quickstart`" in error


def test_others_are_let_in_with_keys_alone(
    shop: TinyShop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "SHOPREC_API_KEYS": ""})

    assert main(["--release", str(shop.releases / "current"), "--host", "0.0.0.0"]) == 2

    assert "Listening on 0.0.0.0 lets others in" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["serving", "serving.batch"])
def test_the_help_names_every_option(module: str, repository: Path) -> None:
    command = [sys.executable, "-m", module, "--help"]

    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)

    options = {
        "serving": ["--host", "--port", "--release", "--workers", "--feedback", "--items"],
        "serving.batch": ["--release", "--users", "--k", "--exclude-seen", "--user-rows", "--out"],
    }
    for option in options[module]:
        assert option in result.stdout


def test_importing_serving_loads_no_model_library(repository: Path) -> None:
    code = "import sys, serving; print({'torch', 'faiss', 'fastapi', 'feast'} & set(sys.modules))"

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "set()"


def test_a_running_server_has_loaded_nothing_of_training(repository: Path) -> None:
    training = "{'torchrec', 'fbgemm_gpu', 'hydra', 'omegaconf', 'feast', 'duckdb', 'trainer'}"
    code = f"import sys, serving.app, serving.batch; print({training} & set(sys.modules))"

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "set()"


def test_the_public_names_are_there() -> None:
    import serving

    assert serving.__all__ == ["Filters", "Item", "Recommendation", "Recommender"]
    assert all(getattr(serving, name).__name__ == name for name in serving.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        serving.Nothing  # noqa: B018
