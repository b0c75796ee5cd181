"""Settings: the environment over the file, all that is missing at once, and no secret in any message."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from connectors.errors import SettingsInvalid
from sync.settings import read, read_known

ENVIRON = {
    "POSTGRES_DSN": "host=db user=me password=hunter2",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "CONNECT_URL": "http://connect:8083",
    "MONGODB_URI": "mongodb://me:hunter2@mongo/?replicaSet=rs0",
    "MONGODB_DATABASE": "app",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(text: str, name: str = "tandem.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_five_addresses_are_enough() -> None:
    found = read(environ=ENVIRON)
    assert found.source.dsn.get_secret_value() == ENVIRON["POSTGRES_DSN"]
    assert (found.source.slot, found.kafka.partitions, found.limits.batch_events) == ("tandem", 4, 500)
    assert found.mapping == Path("mapping.yaml")


def test_the_environment_lies_over_the_file_and_the_long_name_over_the_short_one() -> None:
    config("source: {dsn: host=file, slot: of_file, publication: of_file}\nlimits: {batch_events: 7}\n")
    found = read(environ={**ENVIRON, "TANDEM_SOURCE__SLOT": "of_environ", "TANDEM_LIMITS__BATCH_EVENTS": "8"})
    assert found.source.dsn.get_secret_value() == ENVIRON["POSTGRES_DSN"]
    assert (found.source.slot, found.source.publication) == ("of_environ", "of_file")
    assert found.limits.batch_events == 8
    long = read(environ={**ENVIRON, "TANDEM_SOURCE__DSN": "host=long"})
    assert long.source.dsn.get_secret_value() == "host=long"


def test_a_file_is_enough_and_its_mapping_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = config(
        "source: {dsn: host=a}\nkafka: {bootstrap_servers: b}\nconnect: {url: 'http://c'}\n"
        "target: {uri: mongodb://d, database: e}\nmapping: m.yaml\n",
        "etc/own.yaml",
    )
    assert read(path, environ={}).mapping == Path("etc/m.yaml")
    assert read(path, Path("given.yaml"), environ={}).mapping == Path("given.yaml")


def test_all_that_is_missing_is_told_at_once_with_every_name_looked_for() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        read(
            environ={
                "TANDEM_KAFKA__PARTITIONS": "many",
                "TANDEM_LIMITS__BATCH_EVENT": "1",
                "TANDEM_SORCE__DSN": "x",
            }
        )
    what = caught.value.what
    for short, long in [
        ("POSTGRES_DSN", "TANDEM_SOURCE__DSN"),
        ("KAFKA_BOOTSTRAP_SERVERS", "TANDEM_KAFKA__BOOTSTRAP_SERVERS"),
        ("CONNECT_URL", "TANDEM_CONNECT__URL"),
        ("MONGODB_URI", "TANDEM_TARGET__URI"),
        ("MONGODB_DATABASE", "TANDEM_TARGET__DATABASE"),
    ]:
        assert f"(looked for {short} or {long} and tandem.yaml)" in what
    assert "kafka.partitions" in what
    assert "limits.batch_event: there is no such setting" in what
    assert "TANDEM_SORCE__DSN: there is no section 'sorce'" in what
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_SOURCE__SLOT", "Upper"),
        ("TANDEM_SOURCE__SLOT", "a" * 64),
        ("TANDEM_KAFKA__TOPIC_PREFIX", "a b"),
        ("TANDEM_KAFKA__PARTITIONS", "0"),
        ("TANDEM_LIMITS__BATCH_BYTES", "16000000"),
        ("TANDEM_LIMITS__LOAD_WORKERS", "0"),
        ("MONGODB_DATABASE", "a.b"),
        ("TANDEM_CONNECT__CONNECTOR", "a/b"),
    ],
)
def test_a_value_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=name):
        read(environ={**ENVIRON, name: value})


@pytest.mark.parametrize("text", ["- a", "just text", "source: [1]", "kafka: x"])
def test_a_file_that_is_no_settings(text: str) -> None:
    config(text)
    with pytest.raises(SettingsInvalid, match="is not a mapping of sections"):
        read(environ=ENVIRON)


def test_a_file_that_is_named_has_to_be_there() -> None:
    with pytest.raises(SettingsInvalid, match=r"there is no configuration file none\.yaml"):
        read(Path("none.yaml"), environ=ENVIRON)


def test_an_empty_file_says_nothing() -> None:
    config("")
    assert read(environ=ENVIRON).source.slot == "tandem"


def test_secrets_are_masked() -> None:
    found = read(environ=ENVIRON)
    assert "hunter2" not in f"{found}{found!r}{found.model_dump_json()}"


@pytest.mark.parametrize(
    "text",
    [
        'source: {dsn: "host=db password=hunter2}\n',
        "source: {dsn: [hunter2]}\n",
        "target: {uri: {a: hunter2}, database: app}\n",
        "source: {dsn: host=db password=hunter2: x}\n",
    ],
)
def test_no_message_shows_a_secret(text: str) -> None:
    config(text)
    with pytest.raises(SettingsInvalid) as caught:
        read(environ={k: v for k, v in ENVIRON.items() if k not in ("POSTGRES_DSN", "MONGODB_URI")})
    assert "hunter2" not in f"{caught.value.what} {caught.value.remedy} {caught.value.facts}"


def test_a_command_that_needs_the_source_only_leaves_out_servers_without_an_address() -> None:
    found = read_known(environ={"POSTGRES_DSN": "host=a", "TANDEM_SOURCE__SLOT": "own"})
    assert (found.kafka, found.connect, found.target) == (None, None, None)
    assert found.source.publication == "own"
    all_of_them = read_known(environ={**ENVIRON, "TANDEM_SOURCE__SLOT": "own"})
    assert all_of_them.kafka is not None
    assert all_of_them.kafka.topic_prefix == "own"
    assert all_of_them.target is not None


def test_an_address_given_in_half_is_missing_the_rest_for_every_command() -> None:
    with pytest.raises(SettingsInvalid, match=r"target.database is missing \(looked for MONGODB_DATABASE"):
        read_known(environ={"POSTGRES_DSN": "host=a", "MONGODB_URI": "mongodb://a"})
    with pytest.raises(SettingsInvalid, match=r"source.dsn is missing"):
        read_known(environ={})


def test_the_names_of_other_scripts_are_taken_last() -> None:
    others = {
        **{
            name: value for name, value in ENVIRON.items() if name not in ("POSTGRES_DSN", "MONGODB_DATABASE")
        },
        "MONGODB_URI": "mongodb://me:hunter2@mongo/my%2Dapp?replicaSet=rs0",
        "POSTGRES_HOST": "old",
        "POSTGRES_PORT": "5433",
        "POSTGRES_USER": "me",
        "POSTGRES_PASSWORD": r"it's a \ secret",
        "POSTGRES_DB": "acp",
    }
    found = read(environ=others)
    assert conninfo_to_dict(found.source.dsn.get_secret_value()) == {
        "host": "old",
        "port": "5433",
        "user": "me",
        "password": r"it's a \ secret",
        "dbname": "acp",
    }
    assert found.target.database == "my-app"
    both = read(environ={**others, **ENVIRON})
    assert both.source.dsn.get_secret_value() == ENVIRON["POSTGRES_DSN"]
    assert both.target.database == "app"
    with pytest.raises(SettingsInvalid) as failed:
        read(environ={**others, "POSTGRES_HOST": ""})
    assert "secret" not in failed.value.what
