"""Explaining single values: the events they are computed from, the rules that exclude others, and each path's answer.

Nothing is computed here a second time: the kernels and both paths are asked, and every list of events is checked by
evaluating the plan with it.
"""
