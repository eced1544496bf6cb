"""Write the plans of all golden cases anew: ``python -m tests.golden.rewrite``."""

from tests.golden.goldens import CASES, compiled_text, golden_path


def main() -> None:
    for case in CASES:
        golden_path(case).write_text(compiled_text(case))


if __name__ == "__main__":
    main()
