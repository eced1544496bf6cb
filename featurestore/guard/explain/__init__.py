"""Explaining single values: which events they are made of, which rule kept others out, and what each road says.

An explanation is data (``model``); ``render`` and ``html`` show it. What it says is asked of the kernels and of both
roads; nothing is computed here a second time, and every list of events is checked by evaluating the plan over it.
"""
