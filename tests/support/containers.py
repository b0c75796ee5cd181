"""The four servers as containers: what `pytest --stack=containers` runs on.

Images, commands, environments and health checks are those of docker-compose.yml, read from it, so that the
two can't drift apart. Ports are free ones of this machine; data goes with the containers.
"""

from __future__ import annotations

import gc
import re
import secrets
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from docker.errors import DockerException  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import ExecWaitStrategy

from sync.dev.state import Addresses

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
STARTUP_TIMEOUT_S = 180
#: Kafka's container waits for this: only once it runs is it known at which port the host sees it.
_KAFKA_START = "/tmp/start.sh"
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^{}]*))?\})")


class NoDocker(RuntimeError):
    """No Docker daemon answers. Tests that asked for containers fail with it; they don't skip."""


class ContainerAddresses(Addresses):
    """Addresses as this process sees them. Connect, a container too, knows PostgreSQL by another."""

    def environ(self) -> dict[str, str]:
        """As the environment variables that the settings are read from."""
        return {
            **super().environ(),
            "TANDEM_CONNECT__DATABASE_HOSTNAME": "postgres",
            "TANDEM_CONNECT__DATABASE_PORT": "5432",
        }


def start() -> tuple[Addresses, Callable[[], None]]:
    """Start the four servers. Returns their addresses, and what ends them and takes their data away.

    Raises NoDocker. When one does not come up, the others are ended and the error holds its log.
    """
    require_daemon()
    services = read_services(
        {"POSTGRES_PASSWORD": secrets.token_hex(16), "MONGODB_PASSWORD": secrets.token_hex(16)}
    )
    with ExitStack() as running:
        network = running.enter_context(Network())

        def run(name: str, port: int) -> DockerContainer:
            return running.enter_context(container(name, services[name], network, port))

        postgres, mongodb = run("postgres", 5432), run("mongodb", 27017)
        kafka = running.enter_context(kafka_container(services["kafka"], network))
        connect = run("connect", 8083)

        login, first_user = services["postgres"]["environment"], services["mongodb"]["environment"]
        host, port = _seen_at(postgres, 5432)
        addresses = ContainerAddresses(
            postgres_dsn=f"host={host} port={port} dbname={login['POSTGRES_DB']}"
            f" user={login['POSTGRES_USER']} password={login['POSTGRES_PASSWORD']}",
            kafka_bootstrap_servers="{}:{}".format(*_seen_at(kafka, 9092)),
            connect_url="http://{}:{}".format(*_seen_at(connect, 8083)),
            mongodb_uri="mongodb://{}:{}@{}:{}/?authSource=admin&directConnection=true".format(
                first_user["MONGODB_INITDB_ROOT_USERNAME"],
                first_user["MONGODB_INITDB_ROOT_PASSWORD"],
                *_seen_at(mongodb, 27017),
            ),
            mongodb_database="tandem_test",
        )
        return addresses, running.pop_all().close


def require_daemon() -> None:
    """Ask the daemon that testcontainers would use. Raises NoDocker when none answers."""
    if reason := _unanswered():
        raise NoDocker(
            f"--stack=containers needs a Docker daemon and none answers ({reason}). Start one, or set"
            " DOCKER_HOST, or run the tests with --stack=embedded (local processes) or --stack=external."
        )


def _unanswered() -> str | None:
    with warnings.catch_warnings():
        # Docker's client leaves its socket to the garbage collector when it can't connect.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = DockerClient().client
            client.ping()
            client.close()
        except (DockerException, OSError) as error:
            return str(error)
        finally:
            gc.collect()
    return None


def read_services(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml, variables replaced. Raises ValueError when a required one lacks."""
    content = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    services: dict[str, dict[str, Any]] = _filled(content, environ)["services"]
    return services


def container(name: str, service: Mapping[str, Any], network: Network, port: int) -> DockerContainer:
    """A container as the service describes it, known to the others by its name, ready when it is healthy."""
    made = (
        DockerContainer(service["image"])
        .with_envs(**service.get("environment", {}))
        .with_network(network)
        .with_network_aliases(name)
        .with_exposed_ports(port)
        .with_kwargs(hostname=name, shm_size=service.get("shm_size"))
        .waiting_for(_healthy(service))
    )
    return made.with_command(service["command"]) if "command" in service else made


def kafka_container(service: Mapping[str, Any], network: Network) -> DockerContainer:
    """A broker that is told its addresses once its container runs, and then starts."""
    made = container("kafka", service, network, 9092)
    inside = made.env.pop("KAFKA_ADVERTISED_LISTENERS").split(",")[0]
    wait_for_it = f"until [ -s {_KAFKA_START} ]; do sleep 0.1; done; exec bash {_KAFKA_START}"
    return made.with_command(["bash", "-c", wait_for_it]).waiting_for(_healthy(service, Advertised, inside))


class Advertised(ExecWaitStrategy):
    """Tells the broker its addresses, by name in the network and as seen from here, then waits for it."""

    def __init__(self, command: list[str], inside: str) -> None:
        super().__init__(command)
        self.inside = inside

    def wait_until_ready(self, kafka: DockerContainer) -> None:  # type: ignore[override]
        host, port = _seen_at(kafka, 9092)
        script = (
            f"export KAFKA_ADVERTISED_LISTENERS={self.inside},HOST://{host}:{port}\n"
            "exec /etc/kafka/docker/run\n"
        )
        kafka.copy_into_container(script.encode(), _KAFKA_START)
        super().wait_until_ready(kafka)


def _healthy(
    service: Mapping[str, Any], kind: Callable[..., ExecWaitStrategy] = ExecWaitStrategy, *more: str
) -> ExecWaitStrategy:
    how, *command = service["healthcheck"]["test"]
    strategy = kind(["sh", "-c", *command] if how == "CMD-SHELL" else command, *more)
    return strategy.with_startup_timeout(STARTUP_TIMEOUT_S)


def _seen_at(of: DockerContainer, port: int) -> tuple[str, int]:
    return of.get_container_host_ip(), of.get_exposed_port(port)


def _filled(node: Any, environ: Mapping[str, str]) -> Any:
    """Compose's interpolation as far as our file uses it: ${A}, ${A:-default}, ${A:?why}, $$."""
    if isinstance(node, dict):
        return {key: _filled(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, environ) for value in node]
    return _VARIABLE.sub(lambda found: _value(found, environ), node) if isinstance(node, str) else node


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    if value := environ.get(found["name"]):
        return value
    if found["how"] == "?":
        raise ValueError(f"{found['name']}: {found['rest']}")
    return found["rest"] or ""
