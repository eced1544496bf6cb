"""Pack the events of one entity."""
