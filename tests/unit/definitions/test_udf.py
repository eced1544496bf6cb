"""User-defined functions: their text, and which of them could give the same answer twice."""

import math
import random
from collections import Counter
from datetime import UTC, datetime
from math import pi, sqrt
from time import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy import sin as sine
from pyarrow.parquet import read_table

from featurestore import FrameSource, OnDemandFeatureView, agg, col, lit, request, udf
from featurestore.core.errors import ConfigError
from featurestore.definitions.udf import find_udf, source_text
from featurestore.kernels.expressions import UdfError
from featurestore.testing import evaluate
from tests.unit.plan.world import mistakes_in, plan_of, view

FACTOR = 2.0
COUNTER = Counter()
WEIGHTS = np.ones(3)


@udf(returns="float64")
def doubled(values):
    # A comment, and what follows, are part of the text.
    return pc.multiply(values, 2.0)


@udf(
    returns="float64",
)
def rooted(values):
    def root(value):
        return None if value is None else sqrt(math.fabs(value))

    return pa.array([root(value) for value in values.to_pylist()], type=pa.float64())


def test_a_udf_gives_an_expression_that_holds_its_text():
    expression = doubled(col("x"))
    assert expression.op == "udf"
    params = dict(expression.params)
    assert (params["name"], params["returns"]) == ("doubled", "float64")
    assert params["source"].startswith("def doubled(values):\n    # A comment")
    assert list(params) == sorted(params)


def test_decorators_and_indentation_are_no_part_of_the_text():
    def plain(x):
        return x

    assert source_text(plain) == "def plain(x):\n    return x"
    assert rooted.source.startswith("def rooted(values):\n    def root(value):")


def test_operands_that_are_no_expressions_become_literals():
    expression = doubled(3.0)
    assert expression.args[0].op == lit(3.0).op


def test_a_function_is_found_again_by_its_name_and_text():
    assert find_udf("doubled", doubled.source) is doubled


def test_a_function_with_another_text_is_not_the_one():
    with pytest.raises(ConfigError, match="has another text than the plan's"):
        find_udf("doubled", doubled.source + " ")


def test_a_function_nobody_imported_is_named():
    with pytest.raises(ConfigError, match="udf 'tripled': the function is not defined in this process"):
        find_udf("tripled", "def tripled(x): ...")


def reads_aware_times(at):
    return pa.array([value.timestamp() for value in at.to_pylist()])


def makes_aware_times(text):
    from datetime import datetime

    found = []
    for value in text.to_pylist():
        at = datetime.fromisoformat(value).replace(tzinfo=UTC)
        found.append(at.timestamp() + at.astimezone(UTC).hour)
    return pa.array(found)


def takes_naive_times_to_a_zone(text):
    from datetime import datetime

    return pa.array([datetime.fromisoformat(value).astimezone(UTC).hour for value in text.to_pylist()])


def reads_counts(x):
    return pa.array([datetime.fromtimestamp(value, tz=UTC).hour for value in x.to_pylist()])


def uses_constants_and_ufuncs(x):
    return pa.array(sine(x.to_numpy()) * pi)


@pytest.mark.parametrize(
    "function",
    [
        doubled,
        rooted,
        *map(udf(returns="float64"), [reads_aware_times, makes_aware_times, reads_counts, uses_constants_and_ufuncs]),
    ],
    ids=lambda value: value.name,
)
def test_pure_functions_have_no_problems(function):
    assert list(function.problems()) == []


def reads_a_global(x):
    return pc.multiply(x, FACTOR)


def uses_random(x):
    return pc.multiply(x, random.random())


def imports_random(x):
    import random as chance

    return pc.multiply(x, chance.random())


def asks_numpy_for_chance(x):
    import numpy as np

    return pa.array(np.random.default_rng().random(len(x)))


def asks_arrow_for_chance(x):
    return pc.random(len(x))


def asks_the_time(x):
    return pc.multiply(x, time())


def asks_for_today(x):
    from datetime import date

    return pc.multiply(x, date.today().day)


def hashes(x):
    return pa.array([hash(value) for value in x.to_pylist()])


def opens(x):
    return pa.array(open("numbers").read())  # noqa: PTH123  # what is tested


def remembers(x):
    global FACTOR  # noqa: PLW0603  # what is tested
    FACTOR = 3.0
    return x


def has_a_default(x, factor=FACTOR):
    return pc.multiply(x, factor)


def calls_a_neighbour(x):
    return reads_a_global(x)


def hides_it_inside(x):
    def chance():
        return random.random()

    return pa.array([chance() for _ in x])


def names_nothing(x):
    return nothing(x)  # noqa: F821


def reads_parquet(x):
    import pyarrow.parquet as files

    return files.read_table("numbers.parquet").column(0)


def reads_parquet_by_the_package(x):
    return pa.parquet.read_table("numbers.parquet").column(0)


def reads_text(x):
    import numpy as np

    return pa.array(np.genfromtxt("numbers.txt"))


def reads_a_folder(x):
    from pathlib import Path

    return pa.array([len(list(Path().iterdir()))] * len(x))


def draws_from_a_submodule(x):
    from numpy.random import rand

    return pa.array(rand(len(x)))


def draws_samples(x):
    import statistics

    return pa.array(statistics.NormalDist().samples(len(x)))


def takes_naive_times(text):
    from datetime import datetime

    return pa.array([datetime.fromisoformat(value).timestamp() for value in text.to_pylist()])


def takes_naive_times_by_a_name(text):
    import datetime as dt

    found = []
    for value in text.to_pylist():
        at = dt.datetime.strptime(value, "%Y-%m-%d")
        found.append(at.timestamp())
    return pa.array(found)


def drops_the_zone(at):
    return pa.array([value.replace(tzinfo=None).timestamp() for value in at.to_pylist()])


def counts_in_local_time(x):
    return pa.array([datetime.fromtimestamp(value).hour for value in x.to_pylist()])


def turns_to_local_time(at):
    return pa.array([value.astimezone().hour for value in at.to_pylist()])


def names_the_local_zone(at):
    return pc.hour(pc.assume_timezone(at, "localtime"))


def asks_numpy_the_time(x):
    import numpy as np

    return pa.array([np.datetime64("now").astype(int)] * len(x))


def goes_by_the_back_door(x):
    return pa.array([getattr(pc, "ran" + "dom")(1)[0].as_py()])


def goes_by_the_class(x):
    return pa.array([len(x.__class__.__subclasses__())] * len(x))


def goes_by_a_module(x):
    import statistics

    return pa.array([statistics.sys.argv] * len(x))


def reads_a_counter(x):
    COUNTER["calls"] += 1
    return pc.add(x, COUNTER["calls"])


def reads_an_array(x):
    return pa.array(x.to_numpy() * WEIGHTS)


def reads_a_module_of_arrow(x):
    return pq.read_table("numbers.parquet").column(0)


def reads_a_function_of_arrow(x):
    return read_table("numbers.parquet").column(0)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (reads_parquet, "it imports 'pyarrow.parquet'"),
        (reads_parquet_by_the_package, "it uses 'parquet'"),
        (reads_text, "it uses 'genfromtxt'"),
        (reads_a_folder, "it imports 'pathlib'"),
        (draws_from_a_submodule, "it imports 'numpy.random'"),
        (draws_samples, "it uses 'samples'"),
        (takes_naive_times, "timestamp() of a datetime without a zone reads the machine's"),
        (takes_naive_times_by_a_name, "timestamp() of a datetime without a zone reads the machine's"),
        (drops_the_zone, "timestamp() of a datetime without a zone reads the machine's"),
        (counts_in_local_time, "fromtimestamp() without tz= reads the machine's time zone"),
        (turns_to_local_time, "astimezone() without a zone reads the machine's time zone"),
        (names_the_local_zone, "the zone 'localtime' is the machine's"),
        (asks_numpy_the_time, "datetime64 reads the clock for 'now' and 'today'"),
        (goes_by_the_back_door, "it uses 'getattr'"),
        (goes_by_the_class, "it uses '__class__'"),
        (goes_by_a_module, "it uses 'sys'"),
        (takes_naive_times_to_a_zone, "astimezone() of a datetime without a zone reads the machine's"),
        (reads_a_counter, "it uses the global 'COUNTER', which its source text does not hold"),
        (reads_an_array, "it uses the global 'WEIGHTS', which its source text does not hold"),
        (reads_a_module_of_arrow, "it uses the global 'pq', which its source text does not hold"),
        (reads_a_function_of_arrow, "it uses the global 'read_table', which its source text does not hold"),
        (reads_a_global, "it uses the global 'FACTOR', which its source text does not hold"),
        (uses_random, "it uses the global 'random', which its source text does not hold"),
        (imports_random, "it imports 'random'"),
        (asks_numpy_for_chance, "it uses 'random'"),
        (asks_arrow_for_chance, "it uses 'random'"),
        (asks_the_time, "it uses the global 'time', which its source text does not hold"),
        (asks_for_today, "it uses 'today'"),
        (hashes, "it uses 'hash'"),
        (opens, "it uses 'open'"),
        (remembers, "it assigns the global 'FACTOR'"),
        (has_a_default, "it has default values"),
        (calls_a_neighbour, "it uses the global 'reads_a_global', which its source text does not hold"),
        (hides_it_inside, "it uses the global 'random', which its source text does not hold"),
        (names_nothing, "it uses 'nothing'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_that_could_answer_twice_differently_has_a_problem(function, problem):
    assert any(found.startswith(problem) for found in udf(returns="float64")(function).problems())


def test_a_function_of_a_function_cannot_use_what_is_around_it():
    factor = 2.0

    def scaled(x):
        return pc.multiply(x, factor)

    assert list(udf(returns="float64")(scaled).problems()) == ["it uses 'factor' of the function around it"]


def test_a_function_without_a_text_is_refused():
    made = udf(returns="float64")(eval("lambda x: x"))
    assert list(made.problems()) == ["its source text cannot be read"]


def test_the_compiler_reports_what_is_wrong_with_a_function():
    impure = udf(returns="float64")(uses_random)
    found = mistakes_in(view({"f": agg.mean(impure(col("arr_delay"))).over("1d")}))
    assert {mistake.code for mistake in found} == {"impure-udf"}
    assert found[0].problem == "udf 'uses_random' could give different answers: it uses 'random'"


def test_the_text_of_a_function_reaches_the_fingerprint():
    def first(x):
        return pc.add(x, 1.0)

    one = udf(returns="float64")(first)

    def first(x):
        return pc.add(x, 2.0)

    two = udf(returns="float64")(first)
    prints = [plan_of(view({"f": agg.last(made(col("arr_delay")))})).fingerprint for made in (one, two)]
    assert prints[0] != prints[1]


def centred(x):
    return pc.subtract(x, pc.mean(x))


def accumulated(x):
    return pc.cumulative_sum(pc.fill_null(x, 0.0))


def ranked(x):
    return pc.rank(x).cast(pa.float64())


def first_repeated(x):
    return pa.array([x[0].as_py()] * len(x), pa.float64())


def shifted(x):
    return pa.concat_arrays([x.slice(1), x.slice(0, 1)])


def filled_forward(x):
    return pc.fill_null_forward(x)


def counted_rows(x):
    return pa.array([float(len(x))] * len(x))


def needs_several(x):
    if len(x) < 2:
        raise ValueError("too few")
    return x


def scaled_if_text(text):
    return pa.array([float(len(text.to_pylist()[0].split("T")[0]))] * len(text))


def remembered_in_the_block(text):
    seen = set()
    found = []
    for value in text.to_pylist():
        found.append(0.0 if value in seen else 1.0)
        seen.add(value)
    return pa.array(found)


DEPENDENT = [centred, accumulated, ranked, first_repeated, shifted, filled_forward, counted_rows, needs_several]


@pytest.mark.parametrize("function", DEPENDENT, ids=lambda function: function.__name__)
def test_a_function_that_looks_at_other_rows_does_not_compile(function):
    """Rows come in other numbers and orders online; what the text does not show is found by trying."""
    made = udf(returns="float64")(function)
    assert list(made.problems()) == []
    found = mistakes_in(view({"f": agg.last(made(col("arr_delay")))}))
    assert [mistake.code for mistake in found] == ["impure-udf"]
    assert "for " in found[0].problem


@pytest.mark.parametrize("function", [scaled_if_text, remembered_in_the_block])
def test_functions_of_text_are_tried_with_words_numbers_and_instants(function):
    made = udf(returns="float64")(function)
    assert {mistake.code for mistake in mistakes_in(view({"f": agg.last(made(col("origin")))}))} == {"impure-udf"}


def test_a_constant_operand_is_what_it_is_in_the_trial():
    """A function may only be defined for its constant; where every trial raises, the first real rows decide."""

    @udf(returns="float64")
    def picky(x, how):
        if set(how.to_pylist()) != {"sum"}:
            raise ValueError(how)
        return pc.subtract(x, pc.mean(x))

    assert {mistake.code for mistake in mistakes_in(view({"f": agg.last(picky(col("arr_delay"), "sum"))}))} == {
        "impure-udf"
    }
    assert mistakes_in(view({"f": agg.last(picky(col("arr_delay"), "mean"))})) == []


def test_functions_over_every_dtype_are_tried():
    """What is made up has values of each dtype, some of them null."""

    @udf(returns="int64")
    def codes(x):
        return x.dictionary_encode().indices.cast(pa.int64())

    for column in ("origin", "number", "landed_at", "fare", "cancelled", "day", "arr_delay"):
        assert {mistake.code for mistake in mistakes_in(view({"f": agg.last(codes(col(column)))}))} == {"impure-udf"}

    @udf(returns="int64")
    def lengths(x):
        return pc.list_value_length(x).cast(pa.int64())

    assert mistakes_in(view({"f": agg.last(lengths(col("stops")))})) == []


def test_on_demand_features_are_tried_too():
    made = udf(returns="float64")(centred)
    on_demand = OnDemandFeatureView("d", request={"x": "float64"}, features={"f": made(request("x"))})
    assert {mistake.code for mistake in mistakes_in(on_demand)} == {"impure-udf"}


def test_the_first_real_rows_are_a_trial():
    """A function whose made-up trials all raise is found when it meets rows, on whichever road that is."""

    @udf(returns="float64")
    def only_codes(text):
        found = pa.array([float(value.split("code-")[1]) for value in text.to_pylist()])
        return pc.subtract(found, pc.min(found))

    events = pa.table(
        {
            "carrier": ["UA", "UA"],
            "landed_at": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
            "code": ["code-4", "code-7"],
        }
    )
    source = FrameSource("s", frame=events, event_time="landed_at")
    found = view({"f": agg.last(only_codes(col("code")))}, source=source)
    with pytest.raises(UdfError, match="the value of a row depends on other rows"):
        evaluate(found, events=events, at="2026-01-01T00:00Z")
