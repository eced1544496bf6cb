"""A pytest plugin that runs the kernels as plain Python, so that coverage can see into their loops.

Compiled code gives infinity where Python's ``ldexp`` raises, and wraps integers where NumPy warns or refuses. So some
tests fail here; what they reach counts all the same. Used by ``tests.measure_coverage`` only; importing it changes
nothing.
"""

import math
import os

from hypothesis import HealthCheck, Phase, settings

_ldexp = math.ldexp


def _ldexp_or_infinity(mantissa: float, exponent: int) -> float:
    try:
        return _ldexp(mantissa, int(exponent))
    except OverflowError:
        return math.copysign(math.inf, mantissa)


def pytest_load_initial_conftests() -> None:
    """Decide before anything imports numba or loads a profile."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    os.environ["HYPOTHESIS_PROFILE"] = "interpreted"
    settings.register_profile(
        "interpreted",
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def pytest_configure(config) -> None:
    math.ldexp = _ldexp_or_infinity
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning")


def pytest_unconfigure() -> None:
    math.ldexp = _ldexp
