"""Routes by which clients of Feast are served: its requests and answers, this store's values.

Feast's own client with ``online_store: type: remote`` reads through ``POST /get-online-features``. What Feast's JSON
has no words for: instants are whole seconds since the epoch (what lies below is cut off), a value without an event has
the event time of the epoch, naive instants are UTC. ``/v1/features`` has no such losses.
"""

from featurestore.server.feast.messages import schemas
from featurestore.server.feast.routes import routes

__all__ = ["routes", "schemas"]
