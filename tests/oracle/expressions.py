"""Row expressions, evaluated as they read: the few operations that the tests of aggregations use."""

import operator

OPERATORS = {"add": operator.add, "gt": operator.gt, "le": operator.le, "eq": operator.eq, "not": operator.not_}


def evaluate(expression, event):
    """Return the value of a typed expression for one event; an operation on a null is null."""
    if expression.op == "column":
        return event[expression.param("name")]
    if expression.op == "literal":
        return expression.param("value")
    operands = [evaluate(arg, event) for arg in expression.args]
    return None if any(value is None for value in operands) else OPERATORS[expression.op](*operands)
