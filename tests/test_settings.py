from __future__ import annotations

from dataclasses import fields

import pytest

from laion_people.errors import LaionPeopleError, UsageError, one_line
from laion_people.settings import GROUPS, Settings, describe, from_environment, to_environment
from laion_people.storage.store import open_store


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
        ("CLUSTER_VERSION", "../../x", "should look like v0001"),
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
    assert sum(line.startswith("LAION_PEOPLE_") for line in table.splitlines()) == len(Settings.__slots__)
    assert [line.partition(":")[0] for line in table.splitlines() if line and not line.startswith("LAION")] == [*GROUPS]
    assert all(f"LAION_PEOPLE_{name.upper()} " in table for name in Settings.__slots__)
    assert "0.25" in table


@pytest.mark.parametrize(
    "mirror",
    [
        "",
        "/srv/weights",
        "~/weights",
        "file:///srv/weights",
        "https://mirror.example.org",
        "http://127.0.0.1:8000/a/b@c/",
        "HTTPS://user:p%2Fw@mirror.example.org:8443/weights",
        "http://user:p@ss@[::1]:80/w",
    ],
)
def test_a_mirror_is_a_folder_or_a_web_address(mirror: str) -> None:
    assert from_environment({"LAION_PEOPLE_MODELS_MIRROR": mirror}).models_mirror == mirror


@pytest.mark.parametrize(
    "mirror",
    [
        "https://user:s3cret/x@mirror.example.org/w",  # / in a password ends the host
        "https://user:s3cret#x@mirror.example.org/w",
        "https://user:s3cret x@mirror.example.org",
        "https://user:s3cret@mirror.example.org:port/",
        "https://user:s3cret@/w",
        "ftp://user:s3cret@mirror.example.org",
        "https://user:s3cret@mirror.example.org/w?a=b",
        "https://user:s3cret@[mirror",
    ],
)
def test_a_wrong_mirror_is_refused_without_its_password(mirror: str) -> None:
    with pytest.raises(UsageError, match=r"LAION_PEOPLE_MODELS_MIRROR=.*\[bad-setting\]$") as error:
        from_environment({"LAION_PEOPLE_MODELS_MIRROR": mirror})
    assert "s3cret" not in str(error.value)


def test_no_password_of_any_setting_is_listed() -> None:
    names = [f.name for f in fields(Settings) if isinstance(f.default, str)]
    listed = describe(Settings(**dict.fromkeys(names, "s3://us3r:s3cret@place/x")))
    assert listed.count("s3://***@place/x") == len(names) and "s3cret" not in listed


@pytest.mark.parametrize("uri", ["s3://key:s3cret@bucket/p", "file://u:s3cret@host/x", "http://u:s3cret@h/p"])
def test_a_store_with_credentials_is_refused_without_showing_them(uri: str) -> None:
    with pytest.raises(UsageError, match=r"\[exposed-password\]$") as error:
        open_store(uri)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from http://u:p@h/x and s3://k:s@b: no", "from http://***@h/x and s3://***@b: no"),
        ("http://u:p@q@h/x@y", "http://***@h/x@y"),
        ("http://u:p/w@h", "http://***@h"),
        ("https://user@h?x=a@b", "https://***@h?x=a@b"),
        ("https://h/a@b, http://h:80/a@b, http://h:80?a@b", "https://h/a@b, http://h:80/a@b, http://h:80?a@b"),
        ("ask a@b: see https://h: it says", "ask a@b: see https://h: it says"),
    ],
)
def test_no_message_shows_the_login_of_a_url(text: str, shown: str) -> None:
    assert LaionPeopleError("code", text).message == UsageError("code", text).message == one_line(text) == shown


@pytest.mark.parametrize("text", ["://:b" * 200_000, "a@" + "://:b" * 200_000])
def test_a_long_text_is_looked_through_for_logins_once(text: str) -> None:
    assert LaionPeopleError("code", text).message == text
