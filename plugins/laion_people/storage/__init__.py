"""The store: paths, tables' schemas, manifests and the metadata that comes in."""
