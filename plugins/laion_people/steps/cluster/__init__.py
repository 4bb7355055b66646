"""The step cluster, its fit, its contact sheets, and the audit of a cluster version."""
