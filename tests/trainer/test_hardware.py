"""What machines offer, by name and here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainer.hardware import GB, KNOWN, by_name, here, memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "h100"),  # not known: only proportions count
    ],
)
def test_a_gpu_is_known_by_what_cuda_calls_it(gpu: str, name: str) -> None:
    assert by_name(gpu).name == name


def test_links_get_slower_with_distance() -> None:
    for known in KNOWN.values():
        if known.compute_device == "cuda":
            assert known.hbm_bytes_s > known.intra_bytes_s
            assert known.hbm_bytes > 20 * GB
        assert known.intra_bytes_s > known.inter_bytes_s
        assert known.ddr_bytes > 0


def test_processes_of_a_machine_share_its_main_memory() -> None:
    cpu = torch.device("cpu")

    assert here(cpu, 1).ddr_bytes <= MACHINE
    assert here(cpu, 4).ddr_bytes == here(cpu, 1).ddr_bytes // 4
    assert here(cpu, 1).hbm_bytes == 0


def limited(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_jobs_limit_counts_as_its_memory(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("0::/slurm/job_7/step_0\n", encoding="utf-8")
    limited(tmp_path, "slurm/job_7/step_0/memory.max", "max\n")
    limited(tmp_path, "slurm/job_7/memory.max", f"{5 * 2**20}\n")
    limited(tmp_path, "slurm/memory.max", f"{9 * 2**20}\n")

    assert memory_limit(tmp_path, process) == 5 * 2**20


def test_older_cgroups_have_limits_too(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("5:cpu:/job\n4:memory:/job\n", encoding="utf-8")
    limited(tmp_path, "memory/job/memory.limit_in_bytes", f"{7 * 2**20}\n")
    limited(tmp_path, "cpu/job/memory.limit_in_bytes", "1\n")

    assert memory_limit(tmp_path, process) == 7 * 2**20


def test_without_a_limit_a_job_has_the_machine(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("0::/\n", encoding="utf-8")

    assert memory_limit(tmp_path, process) == MACHINE
    assert memory_limit(tmp_path, tmp_path / "none") == MACHINE
