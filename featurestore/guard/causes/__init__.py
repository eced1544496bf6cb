"""Why served values differ from recomputed ones.

**Why is a value called ``late_event``?** Read ``hypotheses/late_event.py``: it proposes the assumptions that lead to
this cause, and says in words what each means. Every cause has such a module, named like it. What makes one assumption
win over another is in ``scoring.py``, with its costs in ``weights.py``.

How an audit comes to a cause:

1. ``guard/audit/proving.py`` reads the events of a batch of rows (``batches``) and recomputes them: a ``Case``
   (``model``), whose ``World`` (``guard/world``) holds everything the answers follow from.
2. ``prove`` asks the hypotheses (``catalogue``) for assumptions. Each is a change of the world; the kernels evaluate
   the changed world on a sample (``trials``), and only what comes out exactly as served, status included, counts.
3. ``scoring`` chooses the assumptions that save the most bits; they are confirmed on all rows (``explanation``).
4. What is left is tried with two assumptions together (``pairs``), or, where few rows differ, named without a proof
   (``few_rows``).
5. ``findings_from_proof`` counts values by cause and picks examples; ``lateness`` adds how late refreshes were.

Which single events were late, lost or doubled is searched in ``event_search``, by the equations of
``event_equations`` where counts, sums or means are served.

To add a cause, add a module to ``hypotheses`` that holds a ``Hypothesis`` with a rank, and plant it in
``tests/skew/faults.py``.
"""
