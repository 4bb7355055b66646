"""Airflow and Kubernetes: all that imports them, but for the sign-in of the page People."""
