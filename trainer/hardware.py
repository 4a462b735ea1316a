"""What machines offer: memory and bandwidths, known by name or found on this machine.

Data sheets give bandwidths of links as sums of both directions; here they count one direction.
GB are 10^9 bytes: torch finds a little more memory than the names say (79.1 GiB on an H100).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

GB = 10**9
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hardware:
    """One process's part of a machine; bandwidths in bytes a second."""

    name: str
    compute_device: str
    """cuda or cpu."""
    hbm_bytes: int
    """Memory of the GPU; 0 without one."""
    ddr_bytes: int
    """Main memory of one process."""
    hbm_bytes_s: float
    ddr_bytes_s: float
    hbm_to_ddr_bytes_s: float
    """Between GPU and main memory."""
    intra_bytes_s: float
    """From one process to others of its node."""
    inter_bytes_s: float
    """From one process to other nodes."""
    fp32_flops_s: float
    """Operations a second of matrix products in fp32, without TF32, as torch does them."""
    bf16_flops_s: float
    """In bf16, of dense matrices."""


def _gpu(
    name: str,
    hbm_gb: int,
    hbm: float,
    pcie: float,
    nvlink: float,
    network: float,
    ddr_gb: int,
    fp32: float,
    bf16: float,
) -> Hardware:
    """Bandwidths in GB/s, operations in 10^12 a second."""
    return Hardware(
        name=name,
        compute_device="cuda",
        hbm_bytes=hbm_gb * GB,
        ddr_bytes=ddr_gb * GB,
        hbm_bytes_s=hbm * GB,
        ddr_bytes_s=200.0 * GB,
        hbm_to_ddr_bytes_s=pcie * GB,
        intra_bytes_s=nvlink * GB,
        inter_bytes_s=network * GB,
        fp32_flops_s=fp32 * 1e12,
        bf16_flops_s=bf16 * 1e12,
    )


KNOWN = {
    known.name: known
    for known in (
        # NVIDIA H100 SXM data sheet: 80 GB, 3.35 TB/s, NVLink 900 GB/s, PCIe Gen5 128 GB/s, 67
        # and (1,979 with sparsity) 989 TFLOPS.
        # DGX H100 user guide: 2 TB of main memory and eight 400 Gb/s ports for eight GPUs.
        _gpu("h100", 80, 3350, 64, 450, 50, 256, 67, 989),
        # NVIDIA H200 SXM data sheet: 141 GB, 4.8 TB/s, NVLink 900 GB/s, PCIe Gen5 128 GB/s, 67
        # and (1,979 with sparsity) 989 TFLOPS.
        # DGX H200 user guide: 2 TB and eight 400 Gb/s ports.
        _gpu("h200", 141, 4800, 64, 450, 50, 256, 67, 989),
        # NVIDIA A100 SXM data sheet: 80 GB, 2,039 GB/s, NVLink 600 GB/s, PCIe Gen4 64 GB/s, 19.5
        # and 312 TFLOPS.
        # DGX A100 user guide (640 GB system): 2 TB and eight 200 Gb/s ports.
        _gpu("a100", 80, 2039, 32, 300, 25, 256, 19.5, 312),
        # NVIDIA DGX B200 data sheet: 1,440 GB and 64 TB/s for eight GPUs, NVLink 14.4 TB/s,
        # 2 TB of main memory, eight 400 Gb/s ports; PCIe Gen5. HGX B200: 600 TFLOPS in fp32 and
        # (36 PFLOPS with sparsity) 18 in bf16 for eight.
        _gpu("b200", 180, 8000, 64, 900, 50, 256, 75, 2250),
        # NVIDIA L4 data sheet: 24 GB, 300 GB/s, PCIe Gen4 64 GB/s, no NVLink, 30.3 and (242 with
        # sparsity) 121 TFLOPS. Google's g2-standard-96: eight of them, 384 GB, 100 Gb/s.
        _gpu("l4", 24, 300, 32, 32, 1.5, 48, 30.3, 121),
        # A process of a small server: a pair of channels of DDR4-3200 (51.2 GB/s, JEDEC), gloo
        # over loopback and over a 10 Gb/s network, one core of AVX2 at 3 GHz (32 a cycle).
        Hardware(
            name="cpu",
            compute_device="cpu",
            hbm_bytes=0,
            ddr_bytes=16 * GB,
            hbm_bytes_s=0.0,
            ddr_bytes_s=51.2 * GB,
            hbm_to_ddr_bytes_s=51.2 * GB,
            intra_bytes_s=5.0 * GB,
            inter_bytes_s=1.25 * GB,
            fp32_flops_s=96e9,
            bf16_flops_s=96e9,
        ),
    )
}


def here(device: torch.device, local_world_size: int) -> Hardware:
    """This process's part of this machine.

    Memory is what there is; bandwidths are those of the data sheet of a known GPU, of an H100's
    for others, as a plan needs only their proportions.

    Args:
        device: where the process computes.
        local_world_size: processes on this machine, which share its main memory.
    """
    ddr_bytes = memory_limit() // local_world_size
    if device.type != "cuda":
        return replace(KNOWN["cpu"], ddr_bytes=ddr_bytes)
    name = torch.cuda.get_device_name(device)
    free, _ = torch.cuda.mem_get_info(device)
    hbm_bytes = free + torch.cuda.memory_reserved(device)  # others may use this GPU too
    return replace(by_name(name), name=name, hbm_bytes=hbm_bytes, ddr_bytes=ddr_bytes)


def by_name(gpu: str) -> Hardware:
    """The known GPU that CUDA's name of a device says, such as ``NVIDIA H100 80GB HBM3``."""
    words = gpu.lower().replace("-", " ").split()
    return next((KNOWN[word] for word in words if word in KNOWN), KNOWN["h100"])


def memory_limit(root: Path = CGROUPS, process: Path = Path("/proc/self/cgroup")) -> int:
    """Main memory that this job may use, in bytes: the machine's, or less by a cgroup's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root, process)])


def _cgroup_limits(root: Path, process: Path) -> Iterator[int]:
    """Limits of this process's cgroups and of those above them, of version 2 and 1."""
    lines = process.read_text(encoding="utf-8").splitlines() if process.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top = root if not controllers else root / "memory"
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if (place / file).is_file():
                text = (place / file).read_text(encoding="utf-8").strip()
                yield from [] if text == "max" else [int(text)]
            if place == top:
                break
