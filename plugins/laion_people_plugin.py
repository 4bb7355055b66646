"""What Airflow registers: the page "People" of its UI, served by the API server under /laion-people."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from laion_people.orchestration.notifications import RunMade
from laion_people.orchestration.timetables import PartitionDates, PartitionTimetable

URL_PREFIX = "/laion-people"


class LaionPeoplePlugin(AirflowPlugin):
    """Plugins load in every component and in every task's process: the web app is imported only by the API server."""

    name = "laion_people"
    timetables: ClassVar[list[type]] = [PartitionTimetable]
    partition_mappers: ClassVar[list[type]] = [PartitionDates]
    deadline_references: ClassVar[list[type]] = [RunMade]
    # Airflow shows a view in a frame that may run scripts, send forms and load from its own origin, and keeps the
    # frame's address in the browser's. Without url_route it would open in another tab.
    external_views: ClassVar[list[dict[str, Any]]] = [
        {
            "name": "People",
            "href": "laion-people/",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "laion-people",
            "icon": "laion-people/static/people.svg",
            "icon_dark_mode": "laion-people/static/people-dark.svg",
        },
        {
            "name": "People",
            "href": "laion-people/runs/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "laion-people-run",
            "icon": "laion-people/static/people.svg",
            "icon_dark_mode": "laion-people/static/people-dark.svg",
        },
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        from laion_people.web.app import app

        return [{"app": app, "url_prefix": URL_PREFIX, "name": "LAION-People"}]
