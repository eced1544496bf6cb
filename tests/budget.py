"""How many examples property tests try: few in every run, many in a search.

``HYPOTHESIS_PROFILE=search`` looks for new counterexamples at random, 20 times as long; otherwise the same examples are
tried every time.
"""

from hypothesis import settings

FACTORS = {"search": 20.0, "interpreted": 0.3}


def examples(count: int) -> settings:
    """Return settings that try ``count`` examples, more when searching, fewer when kernels are interpreted."""
    factor = FACTORS.get(settings.get_current_profile_name(), 1.0)
    return settings(max_examples=max(2, int(count * factor)))
