"""How many examples property tests try: few in every run, so that it stays short, many in a search.

``HYPOTHESIS_PROFILE=search`` looks for new counterexamples at random, 20 times as long; otherwise the same examples are
tried every time.
"""

from hypothesis import settings

FACTORS = {"search": 20.0, "interpreted": 0.3}


def examples(count: int) -> settings:
    """Return settings that try three quarters of ``count`` examples, more when searching, fewer if interpreted."""
    factor = FACTORS.get(settings.get_current_profile_name(), 0.75)
    return settings(max_examples=max(2, int(count * factor)))
