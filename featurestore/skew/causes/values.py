"""What may be done to a value after it was computed, simplest first: whatever is assumed before, this comes on top."""

from __future__ import annotations

from featurestore.skew.causes.defaults import DEFAULT_FOR_NULL
from featurestore.skew.causes.listing import LIST_ORDER
from featurestore.skew.causes.precision import PRECISION
from featurestore.skew.causes.spelling import TEXT_FORMAT
from featurestore.skew.causes.units import UNIT_OR_SCALE

VALUES = (DEFAULT_FOR_NULL, PRECISION, UNIT_OR_SCALE, LIST_ORDER, TEXT_FORMAT)
