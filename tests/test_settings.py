from __future__ import annotations

import pytest

from laion_people.errors import UsageError
from laion_people.settings import Settings, describe, from_environment, to_environment


def test_variables_set_values_and_overrides_win() -> None:
    environ = {"LAION_PEOPLE_STORE": "s3://b/p", "LAION_PEOPLE_URL_TIMEOUT": "2.5", "PATH": "/bin"}
    read = from_environment(environ, profile="packaged", store=None)
    assert (read.store, read.url_timeout, read.profile) == ("s3://b/p", 2.5, "packaged")
    assert from_environment(environ, store="./here").store == "./here"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ALLOW_PRIVATE_ADDRESSES", "yes", "should be 0 or 1"),
        ("SHARD_ROWS", "many", "should be a whole number"),
        ("THRESHOLD", "high", "should be a number"),
        ("RUNNER", "docker", "should be one of process, kubernetes"),
        ("THRESHOLD", "nan", "should be a number"),
        ("URL_THREADS", "0", "should be at least 1"),
        ("CLUSTERS", "../../x", "should look like v0001"),
        ("BACKGROUNDS", "/etc", "should look like backgrounds/rooms"),
        ("BACKGROUNDS", "a/../..", "should look like backgrounds/rooms"),
        ("POD_IMAGE", "laion-people-worker:latest", "and never :latest"),
        ("POD_NODE_SELECTOR", '["gpu"]', 'should look like {"pool": "batch"}'),
        ("POD_TOLERATIONS", "gpu", r"should look like \[{"),
        ("POD_RESOURCES", '{"detect": {"gpu": "500m"}}', 'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detect": {"cpu": "3Gi"}}', 'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detect": {"cpu": true}}', 'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detect": {"memory": 24}}', 'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detect": {"shared_memory": "1m"}}', 'should look like {"detect": {"gpu": 1'),
        ("TRESHOLD", "0.2", "unknown setting LAION_PEOPLE_TRESHOLD"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_should_be(name: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        from_environment({f"LAION_PEOPLE_{name}": value})


@pytest.mark.parametrize("cpu", ["8", "0.5", '"1.5"', '"500m"'])
def test_cores_may_be_given_as_kubernetes_takes_them(cpu: str) -> None:
    given = f'{{"detect": {{"cpu": {cpu}, "gpu": 1, "memory": "24Gi", "ephemeral_storage": "512Mi"}}}}'
    assert from_environment({"LAION_PEOPLE_POD_RESOURCES": given}).pod_resources == given


@pytest.mark.parametrize(
    "name",
    ["POSTGRESQL_SERVICE_HOST", "POSTGRESQL_SERVICE_PORT", "POSTGRESQL_SERVICE_PORT_TCP_POSTGRESQL", "STATSD_PORT"]
    + [f"POSTGRESQL_PORT_5432_TCP{end}" for end in ("", "_ADDR", "_PORT", "_PROTO")]
    + ["SERVICE_HOST", "PORT"],
)
def test_what_kubernetes_tells_of_a_service_is_not_taken_for_a_setting(name: str) -> None:
    assert from_environment({f"LAION_PEOPLE_{name}": "tcp://10.0.0.1:5432"}) == Settings()


def test_settings_come_back_from_the_variables_that_give_them() -> None:
    settings = Settings(threshold=0.25, describe=True, respect_opt_out=False, seed=7, pod_node_selector='{"pool": "x"}')
    assert from_environment(to_environment(settings)) == settings
    assert to_environment(Settings()) == {}


def test_the_table_names_every_setting_with_its_value() -> None:
    table = describe(Settings(threshold=0.25))
    assert len(table.splitlines()) == len(Settings.__slots__)
    assert all(f"LAION_PEOPLE_{name.upper()} " in table for name in Settings.__slots__)
    assert "0.25" in table
