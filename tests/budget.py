"""How many examples property tests try: few in every run, many in a search.

``HYPOTHESIS_PROFILE=search`` looks for new counterexamples at random, 20 times as long; otherwise the same examples are
tried every time.
"""

from hypothesis import settings

SEARCH_FACTOR = 20


def examples(count: int) -> settings:
    """Return settings that try ``count`` examples, or a multiple when searching."""
    is_search = settings.get_current_profile_name() == "search"
    return settings(max_examples=count * SEARCH_FACTOR if is_search else count)
