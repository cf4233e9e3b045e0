"""The door beside its peers: the same upstream, the same load, one run."""
