"""Compare the answers of training and serving to the same requests."""
