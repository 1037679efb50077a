"""Write the golden numbers of the objective anew: after a change that is meant to change results, and only then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> None:
    sys.path.insert(0, str(TESTS))
    import golden_cases

    old = golden_cases.load() if golden_cases.FILE.is_file() else {}
    new = {name: golden_cases.run_case(name) for name in golden_cases.CASES}
    golden_cases.FILE.parent.mkdir(exist_ok=True)
    golden_cases.FILE.write_text(json.dumps(new, indent=1) + "\n")
    for name, numbers in new.items():
        known = old.get(name, {})
        changed = golden_cases.differences(numbers, known) if known.keys() == numbers.keys() else list(numbers)
        print(f"{name}: {len(changed)} of {len(numbers)} numbers changed {', '.join(changed[:5])}")


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()
