"""The page "People" in Airflow's UI: plain HTML made by the API server from what lies in the store.

Imported by the API server only (see ``laion_people_plugin``). Every route asks for a signed-in user with the right to
read the DAGs; pages that change something ask for more (``auth``).
"""
