"""The HTTP server: one hot route for features, the rest on FastAPI. Nothing here computes a value."""
