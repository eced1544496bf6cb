"""Judge a plan or a training set before it is used."""
