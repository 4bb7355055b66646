"""LAION-People: extract, filter, cluster, compose and caption the people of LAION partitions."""

__version__ = "0.1.0"
