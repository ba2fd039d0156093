"""Print which lines of each package the last `make coverage` reached, and exit with 1 if they are too few.

The argument is the least percentage. Generated stubs, the lines below ``if TYPE_CHECKING:`` and bodies
that are ``...`` do not count.
"""

import collections
import os
import sys

import coverage

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(least_percent: float) -> int:
    """Print the table and the lines that were not reached, and return the exit status."""
    measured = coverage.Coverage()
    measured.load()
    lines: collections.Counter[str] = collections.Counter()
    reached: collections.Counter[str] = collections.Counter()
    missing: dict[str, str] = {}
    for file in sorted(measured.get_data().measured_files()):
        _, statements, _, missed, spans = measured.analysis2(file)
        name = os.path.relpath(file, REPOSITORY)
        package = os.path.dirname(name)
        if statements:
            lines[package] += len(statements)
        reached[package] += len(statements) - len(missed)
        if missed:
            missing[name] = spans
    for name, spans in missing.items():
        print(f"{name}: {spans}")
    print(f"\n{'package':<44} {'lines':>6} {'reached':>7}")
    for package in sorted(lines):
        print(f"{package:<44} {lines[package]:>6} {reached[package] / lines[package]:>7.1%}")
    percent = 100 * reached.total() / lines.total()
    print(f"{'all':<44} {lines.total():>6} {percent:>6.1f}%")
    if percent < least_percent:
        print(f"At least {least_percent:.0f} % are wanted: test the promises of the others, or remove them.")
    return percent < least_percent


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
