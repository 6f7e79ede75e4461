"""Where the benchmarks find real scans."""

from pathlib import Path

TCGA_PATTERNS = {
    "T1w": "T1_AX*",
    "ce-gadolinium_T1w": "*POST_GAD*",
    "T2w": "*T2_AX*",
    "FLAIR": "*FLAIR*",
}


def tcga_files(data: Path | None) -> dict[str, Path]:
    """The four sequences of TCGA-FG-6692 as scanned; empty where they are not among the
    downloads.
    """
    folder = data / "tcga_fg_6692_raw" if data else None
    return (
        {
            suffix: next(folder.glob(f"{pattern}.nii.gz"))
            for suffix, pattern in TCGA_PATTERNS.items()
        }
        if folder and folder.is_dir()
        else {}
    )
