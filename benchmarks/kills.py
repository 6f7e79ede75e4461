"""Kills `curate` and `run` at random moments and starts the same command again: do the
bytes come out the same?

    python benchmarks/kills.py [--kills 50] [--run "head_to_head -p folds 2"]

A made-up archive (noise, no patient) is curated without a disturbance, then again
with kills; the same for a run on it, a study that leaves network weights. After every
kill no process of the command may be left, and at the end no half-written folder and
no other byte.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from glioma_repro.patients.core import generator, sha256_of, write_text

from tables import markdown

NAME = "tcga-lgg-slices"
# images, masks, tables, predictions, weights
KEPT = (".gz", ".tsv", ".csv", ".safetensors", ".tif")


def make_archive(folder, patients=24, slices=8, size=48):
    """The layout of the Kaggle set with its clinical table; IDH shows in the disc's
    brightness.
    """
    rows = []
    for number in range(patients):
        barcode = f"TCGA-{('CS', 'DU', 'HT')[number % 3]}-{1000 + number}"
        name = f"{barcode.replace('-', '_')}_19990101"
        (folder / "kaggle_3m" / name).mkdir(parents=True)
        draw = generator("kills", barcode)
        disc = (
            np.hypot(*(np.indices((size, size)) - size * draw.uniform(0.4, 0.6)))
            < size * 0.15
        )
        head = np.hypot(*(np.indices((size, size)) - size / 2)) < size * 0.45
        for one in range(1, slices + 1):
            mask = disc & (1 < one < slices)
            bright = np.array([-20, 120, 60 + 40 * (number % 2)])
            noise = draw.integers(20, 90, (size, size, 3)) * head[..., None]
            picture = noise + mask[..., None] * bright
            place = folder / "kaggle_3m" / name / f"{name}_{one}"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(f"{place}.tif")
            Image.fromarray(mask.astype(np.uint8) * 255).save(f"{place}_mask.tif")
        rows.append(
            {
                "Patient ID": barcode,
                "Diagnosis Age": 30 + number,
                "Sex": "Female",
                "IDH status": ("WT", "Mutant")[number % 2],
                "IDH-1P10Q Subtype": "Non-codel",
                "MGMT promoter status": ("Methylated", "Unmethylated")[number // 2 % 2],
                "Neoplasm Histologic Grade": "G2",
                "Neoplasm Histologic Type Name": "astrocytoma",
                "Overall Survival (Months)": 12,
                "Overall Survival Status": "0:LIVING",
                "ATRX status": "WT",
                "TERT promoter status": "NA",
                "Chr 7 gain/Chr 10 loss": "No combined CNA",
            }
        )
    table = folder / "lgggbm_tcga_pub_clinical_data.tsv"
    pd.DataFrame(rows).to_csv(table, sep="\t", index=False)
    return folder


def start(words):
    """The command, in a process group of its own."""
    code = "import sys; from glioma_repro.runs.command import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(words):
    """Runs it to its end; gives the seconds."""
    begin = time.time()
    process = start(words)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {process.returncode}")
    return time.time() - begin


def left_over(group, seconds=20):
    """Processes of the group that are still there after some seconds."""
    end = time.time() + seconds
    while True:
        alive = subprocess.run(
            ["pgrep", "-g", str(group)], capture_output=True, text=True
        ).stdout.split()
        if not alive or time.time() > end:
            return len(alive)
        time.sleep(0.2)


def content(folder):
    """SHA-256 of what a study reads or writes, by name."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in KEPT and ".unpacked" not in path.parts
    }


def run_words(said, cohort, out):
    """The command line of a study on a cohort."""
    study, *parameters = shlex.split(said)
    return ["run", study, "--cohort", cohort, "--out", out, *parameters]


def campaign(what, words_for, place, kills):
    """One row: the same command with and without kills."""
    whole, killed = place / f"{what}-whole", place / f"{what}-killed"
    seconds = finish(words_for(whole))
    random, alive, done = generator("kills", what), 0, 0
    while done < kills:
        process = start(words_for(killed))
        time.sleep(float(random.uniform(0, 1.2 * seconds)))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL if done % 3 else signal.SIGTERM)
            process.wait()
            alive += left_over(process.pid)
            done += 1
        else:  # it had ended before: from the start again
            shutil.rmtree(killed, ignore_errors=True)
    finish(words_for(killed))
    one, two = content(whole), content(killed)
    other = [
        name for name in sorted(set(one) | set(two)) if one.get(name) != two.get(name)
    ]
    halves = list(killed.rglob(".writing-*"))
    return dict(
        command=what,
        seconds=round(seconds, 1),
        kills=kills,
        processes_left=alive,
        half_written=len(halves),
        files=len(one),
        other_bytes=len(other),
        first=other[0] if other else "",
    )


def report(given, rows):
    """Writes results/kills.md: what has been measured so far."""
    table = pd.DataFrame(rows)
    command = f'python benchmarks/kills.py --kills {given.kills} --run "{given.run}"'
    text = f"# Kills\n\n`{command}`\n\n{markdown(table)}\n"
    write_text(Path(__file__).parent / "results" / "kills.md", text)
    return table


def main():
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--kills", type=int, default=50)
    reader.add_argument(
        "--run",
        default="head_to_head -p methods age,chang2018 -p iterations 20 -p folds 2 "
        "-p targets idh -p bootstrap 50",
        help="the study that is killed, with its parameters; none: curate alone",
    )
    given = reader.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = make_archive(place / "source")
        words = ["curate", NAME, "--source", source, "--jobs", "2", "--out"]
        rows = [campaign("curate", lambda out: [*words, out], place, given.kills)]
        report(given, rows)
        if given.run != "none":
            cohort = place / "curate-whole" / NAME
            study = partial(run_words, given.run, cohort)
            rows.append(campaign("run", study, place, given.kills))
    table = report(given, rows)
    print(table.to_string(index=False))
    bad = table[["processes_left", "half_written", "other_bytes"]].to_numpy().sum()
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
