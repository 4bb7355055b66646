"""Takes images, with everybody in them, out of a store: every table, tar, picture, cluster version and publication."""
