"""SQL text: which of it could give other rows when asked again."""

import pytest

from featurestore.plan.sql_text import dialect_of, impurity, tokens_of, without_end

IMPURE = {
    "sqlite": [
        "select julianday('now') as x from t",
        "select unixepoch() as x from t",
        "select * from t where at < datetime('now', '-1 day')",
        "select hex(randomblob(4)) from t",
        "select RANDOM() from t",
        "select strftime('%Y') from t",
        "select strftime('%s', 'now') from t",
        "select date() from t",
        'select datetime("now") from t',
        "select datetime(at, 'localtime') from t",
        "select datetime(at, 'utc') from t",
        "select unixepoch('subsec') from t",
        "select date(coalesce(at, 'NOW')) from t",
        "select CURRENT_TIMESTAMP from t",
        "select /* plain */ current_date -- today\n from t",
        "select last_insert_rowid() from t",
    ],
    "postgresql": [
        "select * from t tablesample bernoulli (50)",
        "select * from t TABLESAMPLE system (1) repeatable (7)",
        "select extract(epoch from age(at)) from t",
        "select age(timestamp '2026-01-01' + (a, b)) from t",
        "select * from t where at < 'now'::timestamptz",
        "select * from t where at < 'now'",
        "select * from t where at between 'yesterday' and 'today'",
        "select timestamp with time zone ' Now ' from t",
        "select date 'tomorrow' from t",
        "select cast('now' as timestamptz) from t",
        "select coalesce(at, 'now') from t",
        "select case when a then at else 'now' end from t",
        "select now () from t",
        "select pg_catalog.now() from t",
        'select "now"() from t',
        "select localtimestamp(3), a from t",
        "select current_user from t",
        "select nextval('s') from t",
        "select gen_random_uuid() from t",
        "select uuidv7() from t",
        "select clock_timestamp() from t",
        "select timeofday() from t",
        "select E'it\\'s', now() from t",
        "select $a$ $b$ $a$, now() from t",
        "select 1 /* a /* b */ c */ + random() from t",
        "select current_setting('TimeZone') from t",
    ],
    "mysql": ["select unix_timestamp() from t", "select 'a\\'b', now() from t", "select 1 # x\n, curdate() from t"],
    "mssql": ["select getdate()", "select newid() from [now()]", "select sysdatetime()"],
    "oracle": ["select sysdate from dual", "select dbms_random.value from dual"],
    "duckdb": ["select * from t using sample 10", "select get_current_timestamp()"],
}
PURE = {
    "sqlite": [
        'select user, at, "current_date" as d from t',
        "select localtime, t.localtime, [localtime] from t",
        "select t.current_date from t",
        "select date(at), date(at, '+1 day'), strftime('%Y', at), unixepoch(at) from t",
        "select * from t where note = 'now' or note like 'now()'",
        "select 'datetime(''now'')' from t",
        "select a -- now()\n from t /* random() */",
        "select now, random from t",
        "select `now()` from t",
        "select a as current_date from t",
        "select date('2026-01-01'), 'now' from t",
    ],
    "postgresql": [
        'select "user", "current_date", "now" from t',
        'select t.localtime, t."localtime" from t',
        "select $$now()$$ as x, $q$random()$q$ from t",
        "select * from t where status = 'now'",
        "select * from t where status <> 'today' and 'now' = kind",
        "select * from t where status in ('now', 'later')",
        "select * from t where status in ('later', 'now')",
        "select 'now' as x, 'today' from t",
        "select 'now'::text, cast('now' as text), text 'now' from t",
        "select case when a then 'now' else 'later' end from t",
        "select status || 'now', replace(status, 'now', 'then') from t",
        "select age(a, b), age(a, date_trunc('day', b)) from t",
        "select a as now from t",
        "select U&'now()' , E'\\'now()' from t",
        "select date_trunc('day', at), extract(epoch from at) from t",
        "select a[1], b->>'now' from t",
        "select /* a /* now() */ now() */ a from t",
    ],
    "mysql": ["select 'it\\'s now()' from t", 'select "now()" from t', "select 'now' + 1 from t where a < 'today'"],
    "mssql": ["select [getdate()], [x y] from t"],
}


def cases(table):
    return [pytest.param(dialect, text, id=f"{dialect}: {text}") for dialect, texts in table.items() for text in texts]


@pytest.mark.parametrize(("dialect", "text"), cases(IMPURE))
def test_a_query_that_could_give_other_rows_is_impure(dialect, text):
    assert impurity(text, dialect) is not None


@pytest.mark.parametrize(("dialect", "text"), cases(PURE))
def test_a_query_that_only_looks_impure_is_not(dialect, text):
    assert impurity(text, dialect) is None


@pytest.mark.parametrize(
    "text", ["'", '"', "$$", "/*", "E'\\", "--", "$a$ $", "[", "`", "", ";", "(((", "now", "'now'"]
)
def test_text_that_is_not_closed_ends_with_the_query(text):
    for dialect in ("", "sqlite", "postgresql", "mysql", "mssql"):
        impurity(text, dialect)
        assert all(token.end <= len(text) for token in tokens_of(text, dialect))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("select 1", "select 1"),
        ("select 1;", "select 1"),
        ("select 1; -- all of it", "select 1"),
        ("select 1 -- one\n;;\n/* end */ ; ", "select 1"),
        ("select ';' -- ;", "select ';'"),
        ("select 1; select 2;", "select 1; select 2"),
        (" ; ", ""),
    ],
)
def test_the_end_of_a_query_is_left_out(text, query):
    assert without_end(text) == query


def test_a_url_names_its_database():
    assert [dialect_of(url) for url in ("postgresql+psycopg://h/d", "sqlite:///x.db", "postgres://h")] == [
        "postgresql",
        "sqlite",
        "postgresql",
    ]
