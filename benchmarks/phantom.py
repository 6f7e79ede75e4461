"""How fast phantoms are made: patients a second (four sequences with truth) by voxel
size and processes, and a repeated call.

    python benchmarks/phantom.py [--patients 16]
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from glioma_repro.patients.core import cores, write_text
from glioma_repro.patients.phantom import make_phantom


def processor():
    "The processor in words, without the machine's name."
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":")[1].strip()
            for line in lines
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.machine()


def measure(patients, voxel_size, jobs, **options):
    """Seconds for a cohort, of the processor in this process, for the same call again;
    size on disk (MB a patient).
    """
    with tempfile.TemporaryDirectory() as folder:
        start, busy = time.perf_counter(), time.process_time()
        make_phantom(
            Path(folder) / "p",
            patients=patients,
            voxel_size=voxel_size,
            jobs=jobs,
            **options,
        )
        made, busy = time.perf_counter() - start, time.process_time() - busy
        start = time.perf_counter()
        make_phantom(
            Path(folder) / "p",
            patients=patients,
            voxel_size=voxel_size,
            jobs=jobs,
            **options,
        )
        again = time.perf_counter() - start
        size = (
            sum(
                path.stat().st_size
                for path in Path(folder).rglob("*")
                if path.is_file()
            )
            / 1e6
            / patients
        )
    return made, busy, again, size


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--patients", type=int, default=16, help="at 2 mm; more where voxels are larger"
    )
    parser.add_argument(
        "--out", default=str(Path(__file__).parent / "results" / "phantom.md")
    )
    number = parser.parse_args().patients
    both = min(2, cores())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    cases = [
        ("default: 48 patients", 48, 3.0, both, {}),
        ("2 mm", number, 2.0, both, {}),
        ("2 mm, one process", number, 2.0, 1, {}),
        ("2 mm, misaligned", number, 2.0, both, dict(misaligned=True)),
        ("2 mm, full truth", number, 2.0, both, dict(full_truth=True)),
        ("4 mm", 2 * number, 4.0, both, {}),
        ("1 mm, one process", max(2, number // 8), 1.0, 1, {}),
    ]
    lines = [
        f"# Phantom\n\n{both} cores of an {processor()}; start of the processes and "
        "the template's head included. Load of the machine at the start: "
        f"{load:.1f}.\n",
        "| cohort | patients | processes | seconds | patients a second | processor "
        "seconds a patient | the same call again (s) | MB a patient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, patients, voxel_size, jobs, options in cases:
        made, busy, again, size = measure(patients, voxel_size, jobs, **options)
        lines.append(
            f"| {name} | {patients} | {jobs} | {made:.1f} | {patients / made:.2f} | "
            f"{f'{busy / patients:.2f}' if jobs == 1 else ''} | {again:.1f} | "
            f"{size:.1f} |"
        )
        print(lines[-1], flush=True)
    write_text(parser.parse_args().out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
