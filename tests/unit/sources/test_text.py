"""CSV files as a source."""

import datetime as dt
import gzip
import zipfile
from pathlib import Path

import duckdb
import pytest

from featurestore.core.dtypes import INT64
from featurestore.core.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.definitions.sources import CsvOptions, FileSource
from featurestore.sources import ReadSettings, open_scan, read_schema
from featurestore.sources.text import _failure
from tests.unit.sources.scans import plan_of, scan_of

FIRST = dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)


def source(path, **options):
    return FileSource("clicks", path=str(path), event_time="at", **options)


def rows_of(path, columns, **options):
    with scan_of(source(path, **options)) as scan:
        return scan.read(columns).to_pylist()


def test_dtypes_are_guessed_from_the_text(tmp_path):
    """Numbers, booleans, dates and instants are what all rows can be read as; codes with leading zeros stay text."""
    (tmp_path / "a.csv").write_text(
        "key,at,count,amount,code,is_new,day,empty\n"
        "a,2013-01-01T05:00:00Z,1,1,007,true,2013-01-01,\n"
        "b,2013-01-01 07:00:00.1234567+02:00,2,2.5,012,FALSE,2013-01-02,\n"
    )
    assert {name: str(dtype) for name, dtype in read_schema(source(tmp_path / "a.csv")).items()} == {
        "key": "string",
        "at": "timestamp",
        "count": "int64",
        "amount": "float64",
        "code": "string",
        "is_new": "bool",
        "day": "date",
        "empty": "string",
    }
    second = rows_of(tmp_path / "a.csv", ["at", "count", "amount", "code", "is_new", "day", "empty"])[1]
    assert second == {
        "at": FIRST.replace(microsecond=123456),
        "count": 2,
        "amount": 2.5,
        "code": "012",
        "is_new": False,
        "day": dt.date(2013, 1, 2),
        "empty": None,
    }


def test_quotes_delimiters_null_texts_and_headers_are_as_said(tmp_path):
    """How text is cut is the user's to say; the delimiter may be found out."""
    (tmp_path / "a.csv").write_text(
        'key;at;note\n"a;b";2013-01-01T05:00:00Z;"say ""hi""\nthere"\nc;2013-01-01T05:00:00Z;NA\n'
    )
    options = CsvOptions(null_values=("NA",))
    assert rows_of(tmp_path / "a.csv", ["key", "note"], csv=options) == [
        {"key": "a;b", "note": 'say "hi"\nthere'},
        {"key": "c", "note": None},
    ]
    (tmp_path / "b.tsv").write_text("a\t2013-01-01T05:00:00Z\n")
    headless = CsvOptions(header=False, columns=("key", "at"))
    assert rows_of(tmp_path / "b.tsv", ["key", "at"], csv=headless) == [{"key": "a", "at": FIRST}]


def test_compressed_files_are_read(tmp_path):
    """Gzip by DuckDB, an archive of one file by Python."""
    text = "key,at\na,2013-01-01T05:00:00Z\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
        archive.writestr("b.csv", text)
    for name in ("a.csv.gz", "b.csv.zip"):
        assert rows_of(tmp_path / name, ["key", "at"]) == [{"key": "a", "at": FIRST}]
    with zipfile.ZipFile(tmp_path / "c.csv.zip", "w") as archive:
        archive.writestr("1.csv", text)
        archive.writestr("2.csv", text)
    with pytest.raises(SourceDataError, match="holds 2 files, expected 1"):
        read_schema(source(tmp_path / "c.csv.zip"))
    (tmp_path / "d.csv.zip").write_bytes(b"no archive")
    with pytest.raises(SourceDataError, match=r"d\.csv\.zip' cannot be read"):
        read_schema(source(tmp_path / "d.csv.zip"))


def test_several_files_are_one_source(tmp_path):
    """Files stand in the order of their names; what one lacks is null; folders give columns."""
    for month, header, row in (
        ("02", "key,at,more", "b,2013-01-01T05:00:00Z,2"),
        ("01", "at,key", "2013-01-01T05:00:00Z,a"),
    ):
        folder = tmp_path / f"month={month}"
        folder.mkdir()
        (folder / "part.csv").write_text(f"{header}\n{row}\n")
    with scan_of(source(tmp_path, format="csv")) as scan:
        assert scan.read(["key", "more", "month"]).to_pylist() == [
            {"key": "a", "more": None, "month": "01"},
            {"key": "b", "more": 2, "month": "02"},
        ]
        assert [(Path(file.path).parent.name, file.row_count) for file in scan.files] == [
            ("month=01", 1),
            ("month=02", 1),
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,at\na\n", "Line: 2.*Expected Number of Columns: 2 Found: 1"),
        ("key,at\na,2013-01-01T05:00:00Z,3\n", "Expected Number of Columns: 2 Found: 3"),
        ('key,at\na,"2013\n', "unterminated quote"),
        ("", "it is empty"),
        ("key,key\na,b\n", "two columns are named 'key'"),
    ],
)
def test_malformed_file_is_named_with_the_line(tmp_path, text, message):
    """A row that is not cut as the header is an error, never a shifted row."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SourceDataError, match=rf"(?s)a\.csv' cannot be read: .*{message}") as error:
        read_schema(source(tmp_path / "a.csv"))
    assert error.value.code == "corrupt-file"


def test_number_that_is_none_is_named_not_rounded(tmp_path):
    """A row beyond the guess is an error that names it: DuckDB would round 2.5 to an integer."""
    lines = [f"a,2013-01-01T05:00:00Z,{i}" for i in range(25_000)]
    (tmp_path / "a.csv").write_text("\n".join(["key,at,value", *lines, "a,2013-01-01T05:00:00Z,2.5"]))
    with (
        pytest.raises(SourceDataError, match=r"a\.csv', column 'value': row 25000 holds '2\.5', which is not an int64"),
        scan_of(source(tmp_path / "a.csv")),
    ):
        pass
    assert rows_of(tmp_path / "a.csv", ["value"], dtypes={"value": "float64"})[-1] == {"value": 2.5}


def test_zones_in_some_rows_only_are_an_error(tmp_path):
    """A row without a zone among rows with one is named: DuckDB would take it for UTC."""
    (tmp_path / "a.csv").write_text("key,at\na,2013-01-01T05:00:00Z\nb,2013-01-01 05:00:00\n")
    with (
        pytest.raises(SourceDataError, match="column 'at': row 1 holds '2013-01-01 05:00:00'"),
        scan_of(source(tmp_path / "a.csv", dtypes={"at": "timestamp"})),
    ):
        pass


def test_naive_text_needs_a_zone(tmp_path):
    """Instants without a zone are refused with the fix, or read in the zone the source names."""
    (tmp_path / "a.csv").write_text("key,at\na,2013-07-01 12:00:00\n")
    with pytest.raises(SourceDataError, match=r"no time zone.*timezone='UTC'"):
        read_schema(source(tmp_path / "a.csv"))
    assert rows_of(tmp_path / "a.csv", ["at"], timezone="America/New_York") == [
        {"at": dt.datetime(2013, 7, 1, 16, tzinfo=dt.UTC)}
    ]


def test_not_finite_floats_are_null_and_counted(tmp_path):
    """Counted also where the rows are spooled."""
    (tmp_path / "a.csv").write_text("key,at,value\na,2013-01-01T05:00:00Z,nan\nb,2013-01-01T05:00:00Z,1\n")
    with scan_of(source(tmp_path / "a.csv")) as scan:
        assert scan.read(["value"]).column("value").to_pylist() == [None, 1.0]
        assert scan.stats().not_finite == (("value", 1),)


def test_large_files_are_spooled_to_the_temporary_folder(tmp_path):
    """Beyond its share of memory a source goes to a file, which is removed with the scan."""
    rows = 30_000
    lines = [f"k{i},2013-01-01T05:00:00Z,{i}" for i in range(rows)]
    (tmp_path / "a.csv").write_text("\n".join(["key,at,value", *lines]))
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = ReadSettings(threads=2, memory_bytes=1 << 20, temp_folder=spool)
    with scan_of(source(tmp_path / "a.csv"), settings=settings) as scan:
        assert [file.name for folder in spool.iterdir() for file in folder.iterdir()] == ["rows.parquet"]
        assert scan.read(["value"]).column("value").to_pylist() == list(range(rows))
        assert scan.files[0].row_count == rows
        (tmp_path / "a.csv").write_text("key,at,value\n")
        with pytest.raises(SourceDataError, match="changed while it was read"):
            scan.check_unchanged()
    assert list(spool.iterdir()) == []


def test_failure_leaves_no_spool(tmp_path):
    """A row that cannot be read leaves nothing in the temporary folder."""
    rows = [f"k{i},2013-01-01T05:00:00Z,{i}" for i in range(300_000)]
    (tmp_path / "a.csv").write_text("\n".join(["key,at,value", *rows, "k,2013-01-01T05:00:00Z,x"]))
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = ReadSettings(threads=2, memory_bytes=1 << 20, temp_folder=spool)
    with pytest.raises(SourceDataError, match="row 300000 holds 'x'"):
        scan_of(source(tmp_path / "a.csv"), settings=settings)
    assert list(spool.iterdir()) == []


def test_missing_column_is_named_with_those_there(tmp_path):
    """A plan's column that no file has is an error; a declared one, too."""
    (tmp_path / "a.csv").write_text("key,at,value\na,2013-01-01T05:00:00Z,1\n")
    plan = plan_of(source(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("key,at,valu\na,2013-01-01T05:00:00Z,1\n")
    with pytest.raises(SourceMissingError, match=r"no column 'value'. Columns: at, key, valu. Did you mean 'valu'"):
        open_scan(source(tmp_path / "a.csv"), plan, keys=["key"])
    with pytest.raises(SourceMissingError, match="no column 'count'"):
        read_schema(source(tmp_path / "a.csv", dtypes={"count": "int64"}))


def test_unreachable_url_is_named(tmp_path):
    """A remote file that cannot be had is an error with its address and what it takes."""
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(SourceMissingError, match=f"no file matches 'nowhere://{name}'"):
            read_schema(source(f"nowhere://{name}"), ReadSettings(temp_folder=tmp_path))
    refused = duckdb.HTTPException("HTTP Error: no route to host")
    assert isinstance(_failure("https://host/a.csv", refused, "source 'clicks'"), SourceError)
    assert "httpfs" in _failure("https://host/a.csv", refused, "source 'clicks'").hint


def dtypes_of(path, **options):
    found = read_schema(source(path, **options)).items()
    return {name: None if dtype is None else str(dtype) for name, dtype in found}


AT = "2013-01-01T05:00:00Z"


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["1", "-2", "0"], "int64"),
        ([str(2**63 - 1), str(-(2**63))], "int64"),
        (["1", " 2", "3 "], "int64"),
        (["1", "NA", "N/A", "NULL"], "int64"),
        (["1.5", "2", "NA"], "float64"),
        (["1.5e-10", "2", "1e+16", "-1.0E300", "+0.5", ".5", "5."], "float64"),
        (["0.100000000000000005551", "0.1"], "float64"),
        (["9007199254740992", "1.5"], "float64"),
        (["nan", "1", "-inf"], "float64"),
        (["true", "NA", " FALSE"], "bool"),
        (["2013-01-01", "NA"], "date"),
        ([AT, "null"], "timestamp"),
        (["89310410106543789301", "89310410106543789302"], "string"),
        ([str(2**63), "1"], "string"),
        (["9007199254740993", "1.5"], "string"),
        (["12345678901234567.89", "1.5"], "string"),
        (["007", "1"], "string"),
        (["+4915112345678", "+4915112345679"], "string"),
        (["1E3", "1000"], "string"),
        (["12e5", "7"], "string"),
        (["NA", "DE"], "string"),
        (["NA", "NULL"], "string"),
        (["1,5", "2"], "string"),
    ],
    ids=lambda value: "|".join(value) if isinstance(value, list) else value,
)
def test_what_is_guessed_keeps_every_text_apart(tmp_path, texts, dtype):
    """Codes stay text: long ids, leading zeros, telephone numbers, exponents; quantities become numbers."""
    rows = "".join(f'k,{AT},"{text}"\n' for text in texts)
    (tmp_path / "a.csv").write_text(f"key,at,x\n{rows}")
    assert dtypes_of(tmp_path / "a.csv")["x"] == dtype
    read = [row["x"] for row in rows_of(tmp_path / "a.csv", ["x"])]
    if dtype == "string":
        assert read == texts
    else:
        missing = sum(text.strip() in ("NA", "N/A", "NULL", "null", "nan", "-inf") for text in texts)
        assert read.count(None) == missing


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        ("1", "007", "row 30000 holds '007', which a number does not keep as it is"),
        ("1.5", "89310410106543789301", "row 30000 holds '89310410106543789301', which float64 does not keep"),
        ("1.5", "00.5", "row 30000 holds '00.5', which a number does not keep"),
    ],
)
def test_a_later_row_that_the_guess_would_change_is_named(tmp_path, first, later, said):
    """A guess from the first rows never makes two codes one; a declared dtype is the user's word."""
    rows = "".join(f"k,{AT},{first}\n" for _ in range(30_000))
    (tmp_path / "a.csv").write_text(f"key,at,x\n{rows}k,{AT},{later}\n")
    with pytest.raises(SourceDataError, match=said) as error:
        rows_of(tmp_path / "a.csv", ["x"])
    assert "dtypes=" in error.value.hint
    assert rows_of(tmp_path / "a.csv", ["x"], dtypes={"x": "string"})[-1] == {"x": later}
    assert rows_of(tmp_path / "a.csv", ["x"], dtypes={"x": "float64"})[-1] == {"x": float(later)}


def test_a_missing_number_after_the_first_rows_is_null(tmp_path):
    rows = "".join(f"k,{AT},1\n" for _ in range(30_000))
    (tmp_path / "a.csv").write_text(f"key,at,x\n{rows}k,{AT},NA\n")
    assert rows_of(tmp_path / "a.csv", ["x"])[-1] == {"x": None}


ROWS = f"a,{AT},1.5\nb,{AT},2\n"
EVERYDAY = {
    "names that differ in case": "key,at,x,Note,note\n" + ROWS.replace("\n", ",p,q\n"),
    "blank first name": "".join(f"{i - 1 if i else ''},{line}\n" for i, line in enumerate(["key,at,x", *ROWS.split()])),
    "trailing blank names": "key,at,x,,\n" + ROWS.replace("\n", ",,\n"),
    "all line ends": f"key,at,x\na,{AT},1.5\r\nb,{AT},2\r",
    "only the last line ends otherwise": f"key,at,x\r\na,{AT},1.5\r\nb,{AT},2\n",
    "a line break in a quoted name": f'key,at,"y\n(m)",x\na,{AT},3,1.5\nb,{AT},3,2\n',
    "semicolons, and commas in names": "key;at;x;a, b, c, d\n" + ROWS.replace(",", ";").replace("\n", ";3\n"),
    "pipes, and semicolons in a note": "key|at|x|n;m;o\n" + ROWS.replace(",", "|").replace("\n", "|u;v\n"),
    "blanks after commas": "key,at,x\n" + ROWS.replace("Z,", "Z, "),
    "a note above": "# made today, by us\n#\nkey,at,x\n" + ROWS,
    "a note and a blank line above": "# made today\n\nkey,at,x\n" + ROWS,
    "blank lines above": "\n\nkey,at,x\n" + ROWS,
    "a byte order mark": "\ufeffkey,at,x\n" + ROWS,
    "blank lines": f"key,at,x\n\na,{AT},1.5\n\nb,{AT},2\n",
    "quoted names": '"key","at","x"\n' + ROWS,
    "names with quotes and blanks": '"key",at,x,"say ""hi"" \'now\'"\n' + ROWS.replace("\n", ",1\n"),
}


@pytest.mark.parametrize("shape", EVERYDAY)
def test_everyday_files_are_read_without_options(tmp_path, shape):
    (tmp_path / "a.csv").write_bytes(EVERYDAY[shape].encode())
    assert rows_of(tmp_path / "a.csv", ["key", "x"]) == [{"key": "a", "x": 1.5}, {"key": "b", "x": 2.0}]


def test_columns_without_a_name_are_numbered(tmp_path):
    (tmp_path / "a.csv").write_text(EVERYDAY["trailing blank names"])
    assert list(dtypes_of(tmp_path / "a.csv")) == ["key", "at", "x", "column3", "column4"]
    (tmp_path / "b.csv").write_text(EVERYDAY["names that differ in case"])
    assert rows_of(tmp_path / "b.csv", ["note", "Note"])[0] == {"note": "q", "Note": "p"}


def test_a_header_that_begins_with_a_hash_is_one(tmp_path):
    (tmp_path / "a.csv").write_text("# made today\n#key,at,x\n" + ROWS)
    assert list(dtypes_of(tmp_path / "a.csv")) == ["#key", "at", "x"]


def test_comments_between_rows_are_left_out_if_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text(f"% a\nkey,at,x\n% b\n{ROWS}")
    assert len(rows_of(tmp_path / "a.csv", ["x"], csv=CsvOptions(comment="%"))) == 2


def test_a_delimiter_may_have_several_characters(tmp_path):
    (tmp_path / "a.csv").write_text("key,at,x\n".replace(",", "  ") + ROWS.replace(",", "  "))
    options = CsvOptions(delimiter="  ")
    assert rows_of(tmp_path / "a.csv", ["key", "x"], csv=options)[1] == {"key": "b", "x": 2.0}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig", "cp437"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_files_are_read_in_the_encoding_that_is_said(tmp_path, encoding, suffix):
    data = f"key,at,größe\nä,{AT},ü\nb,{AT},x\n".encode(encoding)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    if encoding == "utf-16" and suffix.endswith("gz"):
        pytest.skip("DuckDB reads UTF-16 from plain files only")
    options = CsvOptions(encoding=encoding)
    assert rows_of(path, ["key", "größe"], csv=options)[0] == {"key": "ä", "größe": "ü"}


def test_text_of_another_encoding_is_refused_where_it_is_used(tmp_path):
    """Columns that no view reads may hold what they like."""
    text = f"key,at,x,note\na,{AT},1,ü\n"
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    schema = read_schema(source(tmp_path / "a.csv"))
    assert (schema["x"], schema["note"], schema.types["note"]) == (INT64, None, "text that is not UTF-8")
    assert rows_of(tmp_path / "a.csv", ["key", "x"]) == [{"key": "a", "x": 1}]
    with pytest.raises(SourceDataError, match=r"encoding='latin-1'") as error:
        rows_of(tmp_path / "a.csv", ["note"], dtypes={"note": "string"})
    assert error.value.code == "wrong-encoding"
    (tmp_path / "b.csv").write_bytes(f"key,at,größe\na,{AT},1\n".encode("latin-1"))
    with pytest.raises(SourceDataError, match="its header is not UTF-8"):
        read_schema(source(tmp_path / "b.csv"))


def test_the_wrong_encoding_is_named(tmp_path):
    """What is a euro sign to Windows is no character in Latin-1."""
    data = f"key,at,price\na,{AT},5 €\n".encode("cp1252")
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(SourceDataError, match=r"is not latin-1.*encoding='latin-1'\), or 'cp1252'") as error:
        rows_of(tmp_path / "a.csv", ["price"], csv=CsvOptions(encoding="latin-1"), dtypes={"price": "string"})
    assert error.value.code == "wrong-encoding"
    assert rows_of(tmp_path / "a.csv", ["price"], csv=CsvOptions(encoding="cp1252")) == [{"price": "5 €"}]


def test_a_long_text_in_the_first_rows_is_read(tmp_path):
    long = "x, y" * 60_000
    (tmp_path / "a.csv").write_text(f'key,at,note\na,{AT},"{long}"\n')
    assert rows_of(tmp_path / "a.csv", ["note"]) == [{"note": long}]


def test_line_ends_in_quotes_stay_as_they_are_where_others_differ(tmp_path):
    (tmp_path / "a.csv").write_bytes(f'key,at,note\na,{AT},"x\r\ny"\r\nb,{AT},"p\rq"\n'.encode())
    assert [row["note"] for row in rows_of(tmp_path / "a.csv", ["note"])] == ["x\r\ny", "p\rq"]


def test_line_ends_that_differ_late_lose_and_double_no_row(tmp_path):
    rows = [f"k{i},{AT},{i}" for i in range(200_000)]
    text = "\n".join(["key,at,x", *rows[:150_000]]) + "\r\n" + "\n".join(rows[150_000:])
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert [row["x"] for row in rows_of(tmp_path / "a.csv", ["x"])] == list(range(200_000))
