"""docker-compose.yml, the Dockerfile and the container provider: what can be judged without a daemon."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from psycopg.conninfo import conninfo_to_dict
from pymongo.uri_parser import parse_uri

from sync import settings
from tests.support import containers

ROOT = containers.COMPOSE.parent
RAW: dict[str, Any] = yaml.safe_load(containers.COMPOSE.read_text(encoding="utf-8"))
GIVEN = {"POSTGRES_PASSWORD": "given-to-postgres", "MONGODB_PASSWORD": "given-to-mongodb"}
SERVICES = containers.read_services(GIVEN)
SERVERS = {"postgres", "kafka", "connect", "mongodb"}
TANDEM = set(SERVICES) - SERVERS
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_tandem = pytest.mark.parametrize("name", sorted(TANDEM))


def strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [found for value in node.values() for found in strings(value)]
    if isinstance(node, list):
        return [found for value in node for found in strings(value)]
    return [str(node)]


def variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", text))


def read(environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    monkeypatch.chdir(folder)  # where no tandem.yaml can mix in
    return settings.read(environ=environment)


def test_the_roles_of_this_version_are_there() -> None:
    commands = {name: SERVICES[name]["command"] for name in TANDEM}
    assert commands == {
        "setup": ["setup"],
        "snapshot": ["snapshot"],
        "consumer": ["run"],
        "tools": ["status"],
    }


@each_service
def test_an_image_is_pinned_to_a_version_or_built_here(name: str) -> None:
    service = SERVICES[name]
    repository, _, tag = service["image"].rpartition(":")
    if name in TANDEM:
        assert service["build"] == "."
    else:
        assert "build" not in service
        assert repository
        assert re.match(r"\d+\.\d+\.\d+", tag), f"{service['image']} is not one version"


@each_service
def test_a_service_waits_only_for_what_can_happen(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        awaited = SERVICES[other]
        if how["condition"] == "service_healthy":
            assert awaited["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        else:
            assert how["condition"] == "service_completed_successfully"
            assert awaited["restart"] == "no"


@each_tandem
def test_tandem_waits_for_every_server_and_streams_only_after_setup(name: str) -> None:
    waits = SERVICES[name]["depends_on"]
    assert set(waits) >= SERVERS
    assert ("setup" in waits) == (name in ("snapshot", "consumer"))


@each_service
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_a_password_is_always_asked_for_and_never_written_down() -> None:
    asked = re.compile(r"\$\{(POSTGRES|MONGODB)_PASSWORD:\?set it in \.env, see \.env\.example\}")
    told = [value for value in strings(RAW) if re.search("password", value, re.IGNORECASE)]
    assert len(told) >= 4
    assert [value for value in told if not asked.search(value)] == []
    for service in RAW["services"].values():
        for key, value in (service.get("environment") or {}).items():
            assert "PASSWORD" not in key or asked.fullmatch(value), key


@pytest.mark.parametrize("forgotten", sorted(GIVEN))
def test_without_a_password_nothing_starts(forgotten: str) -> None:
    with pytest.raises(ValueError, match=rf"{forgotten}: set it in \.env"):
        containers.read_services({name: value for name, value in GIVEN.items() if name != forgotten})


def test_the_example_environment_names_every_variable_with_its_default() -> None:
    offered = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    text = containers.COMPOSE.read_text(encoding="utf-8")
    assert set(offered) == variables(text)
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert {name: value for name, value in offered.items() if value} == defaults
    assert {name for name, value in offered.items() if not value} == set(GIVEN)


@each_tandem
def test_the_settings_accept_a_service_s_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(SERVICES[name]["environment"], tmp_path, monkeypatch)

    source = conninfo_to_dict(found.source.dsn.get_secret_value())
    postgres = SERVICES["postgres"]["environment"]
    assert source == {
        "host": "postgres",
        "port": "5432",
        "dbname": postgres["POSTGRES_DB"],
        "user": postgres["POSTGRES_USER"],
        "password": GIVEN["POSTGRES_PASSWORD"],
    }
    target = parse_uri(found.target.uri.get_secret_value())
    mongodb = SERVICES["mongodb"]["environment"]
    assert target["nodelist"] == [("mongodb", 27017)]
    assert target["username"] == mongodb["MONGODB_INITDB_ROOT_USERNAME"]
    assert target["password"] == mongodb["MONGODB_INITDB_ROOT_PASSWORD"] == GIVEN["MONGODB_PASSWORD"]
    assert found.connect.url == "http://connect:8083"
    assert f"INSIDE://{found.kafka.bootstrap_servers}" in kafka_doors("KAFKA_ADVERTISED_LISTENERS")
    # The mapping lies where a command without --mapping looks for it.
    folder = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    (mount,) = SERVICES[name]["volumes"]
    assert mount["target"] == f"{folder}/{found.mapping}"
    assert mount["read_only"] is True


def kafka_doors(variable: str) -> list[str]:
    doors: list[str] = SERVICES["kafka"]["environment"][variable].split(",")
    return doors


def test_every_door_of_kafka_is_open_and_the_host_s_is_published() -> None:
    listening = dict(door.split("://") for door in kafka_doors("KAFKA_LISTENERS"))
    advertised = dict(door.split("://") for door in kafka_doors("KAFKA_ADVERTISED_LISTENERS"))
    protocols = dict(door.split(":") for door in kafka_doors("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"))
    assert set(advertised) == {"INSIDE", "HOST"} == set(listening) - {"CONTROLLER"}
    assert set(protocols) == set(listening)
    assert advertised["INSIDE"] == "kafka" + listening["INSIDE"]
    assert SERVICES["kafka"]["ports"] == [f"{advertised['HOST']}{listening['HOST']}"]


def test_one_broker_is_asked_for_one_copy() -> None:
    copies = {
        name: value
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.endswith(("REPLICATION_FACTOR", "MIN_ISR", "INSYNC_REPLICAS"))
    }
    assert {"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"} <= set(
        copies
    )
    assert set(copies.values()) == {"1"}


def test_connect_delivers_exactly_once_from_the_broker_beside_it() -> None:
    given = SERVICES["connect"]["environment"]
    # The rule of the image's entry point: CONNECT_A_B becomes the worker's property a.b.
    worker = {
        name.removeprefix("CONNECT_").lower().replace("_", "."): value
        for name, value in given.items()
        if name.startswith("CONNECT_")
    }
    assert worker["exactly.once.source.support"] == "enabled"
    # The entry point writes these over, from names without the prefix.
    assert not {"bootstrap.servers", "group.id", "config.storage.topic", "offset.storage.topic"} & set(worker)
    assert given["BOOTSTRAP_SERVERS"] == SERVICES["tools"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert not any("@" in value for value in given.values()), "the entry point can't write a value with @"


def test_postgresql_decodes_and_keeps_its_data() -> None:
    postgres = SERVICES["postgres"]
    assert "wal_level=logical" in postgres["command"]
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql"]


def test_every_named_volume_is_declared_and_used() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {volume.split(":")[0] for volume in mounted if isinstance(volume, str)} == set(RAW["volumes"])


def used_commands() -> list[str]:
    """The commands of tandem in the compose file and on its page."""
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    told = re.findall(r"docker compose run --rm tools ([a-z-]+)", page)
    assert told
    return sorted({*told, *(SERVICES[name]["command"][0] for name in TANDEM)})


@pytest.mark.parametrize("command", used_commands())
def test_every_command_used_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sync.cli import main; main()", command, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_holds_all_packages_and_nothing_that_is_kept_out() -> None:
    copied = [
        path
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for path in line.split()[:-1]
    ]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(copied) == sorted(let_in)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert set(build["targets"]["wheel"]["packages"]) <= set(copied)


def test_tandem_runs_as_nobody_special() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["tandem"]' in last


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements-runtime.lock", ("project", "dependencies")),
        ("requirements-build.lock", ("build-system", "requires")),
    ],
)
def test_a_lock_holds_what_is_wanted_each_with_hashes(lock: str, wanted: tuple[str, str]) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert f"--require-hashes -r {lock}" in re.sub(r"--only-binary :all: ", "", DOCKERFILE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    locked: dict[str, set[str]] = {}
    for entry in entries:
        assert "--hash=sha256:" in entry, entry
        name, version = re.match(r"([a-z0-9-]+)==([^ ;]+)", entry).groups()  # type: ignore[union-attr]
        locked.setdefault(name, set()).add(version)
    section, key = wanted
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[section][key]:
        requirement = Requirement(line)
        versions = locked[canonicalize_name(requirement.name)]
        assert versions, line
        assert all(version in requirement.specifier for version in versions), line


def test_containers_without_a_daemon_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(
        containers.NoDocker, match=r"needs a Docker daemon and none answers \(.+--stack=embedded"
    ):
        containers.start()


class Recorded:
    """Stands for a container: keeps what it was told, and is at 127.0.0.1 with 20000 added to its port."""

    made: list[Recorded]
    failing = ""

    def __init__(self, image: str) -> None:
        self.image, self.env, self.name, self.stopped = image, dict[str, str](), "", False
        self.command: list[str] = []
        self.files: dict[str, str] = {}
        self.wait: Any = None
        self.made.append(self)

    def with_envs(self, **env: str) -> Self:
        self.env |= env
        return self

    def with_network_aliases(self, name: str) -> Self:
        self.name = name
        return self

    def with_command(self, command: list[str]) -> Self:
        self.command = command
        return self

    def waiting_for(self, strategy: Any) -> Self:
        self.wait = strategy
        return self

    def told(self, *_: object, **__: object) -> Self:
        return self

    with_network = with_exposed_ports = with_kwargs = told

    def __enter__(self) -> Self:
        if self.name == self.failing:
            raise TimeoutError(self.name)
        self.wait.wait_until_ready(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True

    def exec(self, command: list[str]) -> Any:
        return type("Done", (), {"exit_code": 0, "output": b""})

    def copy_into_container(self, content: bytes, path: str) -> None:
        self.files[path] = content.decode()

    def get_container_host_ip(self) -> str:
        return "127.0.0.1"

    def get_exposed_port(self, port: int) -> int:
        return 20000 + port


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    kind = type("Recorded", (Recorded,), {"made": []})
    monkeypatch.setattr(containers, "DockerContainer", kind)
    monkeypatch.setattr(containers, "require_daemon", lambda: None)
    monkeypatch.setattr(containers, "Network", nullcontext)
    return kind


def test_the_containers_are_those_of_the_compose_file(recorded: type[Recorded]) -> None:
    containers.start()
    assert {made.name: made.image for made in recorded.made} == {
        name: SERVICES[name]["image"] for name in SERVERS
    }
    made = {container.name: container for container in recorded.made}
    assert made["connect"].env == SERVICES["connect"]["environment"]
    assert made["postgres"].command == SERVICES["postgres"]["command"]
    assert made["postgres"].env["POSTGRES_PASSWORD"] not in ("", *GIVEN.values())


def test_kafka_is_told_the_port_that_the_host_sees(recorded: type[Recorded]) -> None:
    containers.start()
    (kafka,) = [made for made in recorded.made if made.name == "kafka"]
    (script,) = kafka.files.values()
    assert "export KAFKA_ADVERTISED_LISTENERS=INSIDE://kafka:19092,HOST://127.0.0.1:29092\n" in script
    assert "KAFKA_ADVERTISED_LISTENERS" not in kafka.env


def test_the_settings_accept_the_containers_addresses(
    recorded: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses, _ = containers.start()
    found = read(addresses.environ(), tmp_path, monkeypatch)
    assert conninfo_to_dict(found.source.dsn.get_secret_value())["port"] == "25432"
    assert parse_uri(found.target.uri.get_secret_value())["nodelist"] == [("127.0.0.1", 47017)]
    assert found.kafka.bootstrap_servers == "127.0.0.1:29092"
    assert found.connect.url == "http://127.0.0.1:28083"
    assert (found.connect.database_hostname, found.connect.database_port) == ("postgres", 5432)


def test_stopping_ends_all_containers_and_not_before(recorded: type[Recorded]) -> None:
    _, stop = containers.start()
    assert [made.stopped for made in recorded.made] == [False] * 4
    stop()
    assert [made.stopped for made in recorded.made] == [True] * 4


def test_a_container_that_does_not_come_up_ends_the_others(recorded: type[Recorded]) -> None:
    recorded.failing = "connect"
    with pytest.raises(TimeoutError, match="connect"):
        containers.start()
    assert {made.name for made in recorded.made if made.stopped} == SERVERS - {"connect"}
