"""``python -m tests.parity FILE...`` compares recorded files; the exit status is 1 when anything differs."""

import sys
from pathlib import Path

from tests.parity import bpt, closed_form_heads, evaluation, sep, spt, text_heads, tuned_towers, vipamin
from tests.parity.report import Arrays, Report


def compare(path: Path) -> Report:
    """Compare every quantity of one recorded file.

    Raises:
        ValueError: If it is not a file of a known form.
    """
    report = Report()
    if path.suffix == ".json":
        spt.check_groups(path, report)
        return report
    arrays = Arrays(path)
    checkers = (
        sep.checker,
        spt.checker,
        text_heads.checker,
        closed_form_heads.checker,
        tuned_towers.checker,
        bpt.checker,
        vipamin.checker,
        evaluation.checker,
    )
    check = next((check for check in (checker(arrays) for checker in checkers) if check is not None), None)
    if check is not None:
        check(arrays, report)
    elif not set(arrays.group("w.")):
        raise ValueError(f"{path}: not a recorded file of a known form; it holds {', '.join(sorted(arrays)[:8])}.")
    else:
        report.same("weights only: loads into a backbone", spt.loads(arrays), True)
    return report


def main(arguments: list[str]) -> int:
    """Print the comparisons of the files; return 0 if all are within tolerance."""
    if not arguments:
        print("usage: python -m tests.parity FILE...   (.npz or .json as tests/golden/README.md describes)")
        return 2
    status = 0
    for argument in arguments:
        print(f"{argument}\n{'quantity':<58} {'max abs':>10} {'max rel':>10}")
        try:
            report = compare(Path(argument))
        except Exception as error:  # report a broken file like a wrong one, and continue
            print(f"FAIL: {type(error).__name__}: {error}")
            status = 1
            continue
        print("\n".join(report.lines()))
        failed = sum(not quantity.passed for quantity in report.quantities)
        print(f"{len(report.quantities)} quantities, {failed} failed\n")
        status |= not report.passed
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
