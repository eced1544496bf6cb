"""The latest of 13 columns by hand in DuckDB.

Usage: python -m benchmarks.contestants.as_of_duckdb FOLDER
"""

import sys
from pathlib import Path

import duckdb

from benchmarks.contestants.clock import timed


def main(folder: Path) -> None:
    connection = duckdb.connect(config={"temp_directory": str(folder / "spill")})
    connection.execute("SET TimeZone = 'UTC'")
    query = f"""
        COPY (
            SELECT s.*, e.* EXCLUDE (user_id, happened_at)
            FROM '{folder}/spine.parquet' s ASOF LEFT JOIN '{folder}/wide.parquet' e
            ON s.user_id = e.user_id AND s.as_of > e.happened_at
            ORDER BY s.row
        ) TO '{folder}/as_of_duckdb.parquet'
    """

    def job() -> None:
        connection.execute(query)

    timed(job)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
