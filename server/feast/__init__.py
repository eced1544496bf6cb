"""Routes for clients of Feast: Feast's requests and answers, this store's values.

Feast's own client with ``online_store: type: remote`` reads through ``POST /get-online-features``. Feast's JSON
loses some information: instants are whole seconds since the epoch (fractions are cut off), a value without an event has
the epoch as its event time, naive instants are UTC. ``/v1/features`` loses nothing.
"""

from featurestore.server.feast.messages import schemas
from featurestore.server.feast.routes import feast_router

__all__ = ["feast_router", "schemas"]
