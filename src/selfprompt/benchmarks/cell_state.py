"""Which cells are done, broken, or with another process: what a cell's folder tells; knows files only."""

from pathlib import Path

from selfprompt.utils.json_files import parse_json

RESULT, ERROR, SPLIT, LOCK = "result.json", "error.txt", "split.json", ".lock"


def is_done(folder: Path, cell_id: str) -> bool:
    """Whether a folder holds the result of that cell; one that cannot be read does not count."""
    try:
        return bool(parse_json((folder / RESULT).read_bytes())["id"] == cell_id)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def error_time(folder: Path) -> float | None:
    """When the cell ended in an error, in seconds since 1970; None if it did not."""
    try:
        return (folder / ERROR).stat().st_mtime
    except OSError:
        return None


def last_line(folder: Path) -> str:
    """The last line of a cell's error: what went wrong."""
    try:
        return (folder / ERROR).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return "unknown error"
