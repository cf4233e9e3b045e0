"""A made-up world: driver, nature, workloads, trace loaders, named dice."""
