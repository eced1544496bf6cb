"""Write the page of causes anew: ``python -m tests.skew.write_confusion_matrix``."""

from pathlib import Path

from tests.skew.measuring import page

PATH = Path(__file__).parents[2] / "docs" / "causes.md"


def main() -> None:
    PATH.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
