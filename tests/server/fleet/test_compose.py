"""deploy/compose.yaml is a file of Compose's, what it mounts is there, and what it starts are
commands that exist, with options that exist.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import front
import pytest
import yaml
from jsonschema import validators

from ossia.commands import serve
from ossia.commands.main import parser
from ossia.commands.options import parsed, seconds
from ossia.server.keys import read_keys
from ossia.server.settings import Limits

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text("utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
SERVERS = ("ossia-1", "ossia-2")
TOOLS_WITH_PYTHON = (
    "--tools browser,python --searx http://searxng:8080 --python-mcp http://python:9000/mcp"
)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/secrets.sh makes."""
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    subprocess.run(["sh", DEPLOY / "secrets.sh", folder], check=True, capture_output=True)
    return folder


def default(text: str) -> str:
    """Compose's variables as they are where nobody sets them."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text).replace("$$", "$")


def command_of(service: str) -> list[str]:
    """What the shell in the container starts, without `exec`."""
    environment = {name: default(value) for name, value in SERVICES[service]["environment"].items()}
    text = default(SERVICES[service]["command"][0]).replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("exec "))
    for name, value in (environment | {"HOSTNAME": SERVICES[service]["hostname"]}).items():
        line = line.replace(f"${name}", value)
    return shlex.split(line)[1:]


def options_of(words: list[str]) -> Any:
    assert words[0] == "ossia"
    found = parsed(parser(), words[1:])
    assert found is not None
    return found[1]


def test_it_fits_the_schema_of_compose() -> None:
    file = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(file.read_text("utf-8"))
    errors = validators.validator_for(schema)(schema).iter_errors(COMPOSE)
    assert [f"{list(error.path)}: {error.message}" for error in errors] == []


def test_what_it_names_is_declared() -> None:
    for name, service in SERVICES.items():
        for kind in ("networks", "secrets"):
            assert set(service.get(kind, ())) <= set(COMPOSE[kind]), name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name


def test_what_it_mounts_is_there(secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir()}
    for secret in COMPOSE["secrets"].values():
        folder, name = secret["file"].rsplit("/", 1)
        assert folder == "./secrets" and name in made
    for name, service in SERVICES.items():
        for file in service.get("env_file", ()):
            assert file.removeprefix("./secrets/") in made
        for mount in service.get("volumes", ()):
            source = default(mount).split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name} mounts {source}"
        if "build" in service:
            build = service["build"]
            dockerfile = (DEPLOY / build["context"] / build["dockerfile"]).read_text("utf-8")
            assert f"AS {build.get('target', 'wheel')}\n" in dockerfile


def test_the_servers_options_exist() -> None:
    homes = set()
    for name in SERVERS:
        options = options_of(command_of(name))
        assert isinstance(options, serve.Options) and options.model == "nano"
        homes.add(options.kept.home)
        assert options.kept.store.startswith("postgresql://")
        # who is asked to stop needs longer than its answers have
        grace = seconds(SERVICES[name]["stop_grace_period"])
        assert options.limits.drain < grace
        assert options.access.api_key_file == "/run/secrets/keys"
    assert homes == {f"http://{name}:8000" for name in SERVERS}


def test_the_way_to_run_code_that_is_told_exists() -> None:
    comments = " ".join(line.strip(" #") for line in TEXT.splitlines() if line.strip()[:1] == "#")
    assert TOOLS_WITH_PYTHON in comments
    command = [word for word in command_of("ossia-1") if word != "--tools"]
    given = options_of([*command[: command.index("--warm-up") + 1], *TOOLS_WITH_PYTHON.split()])
    assert given.hosted.names == ("browser", "python")
    python = options_of(["ossia", *SERVICES["python"]["command"]])
    assert python.tools == "python" and python.http == "0.0.0.0:9000"
    assert COMPOSE["networks"]["code"]["internal"]  # code reaches its callers and nobody else
    assert SERVICES["python"]["networks"] == ["code"]


def test_the_front_is_the_one_that_was_measured() -> None:
    assert "./nginx.conf:/etc/nginx/nginx.conf:ro" in SERVICES["front"]["volumes"]
    addresses = [SERVICES[name]["networks"]["inside"]["ipv4_address"] for name in SERVERS]
    assert len(set(addresses)) == len(SERVERS)  # nginx looks names up once
    nginx = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert re.findall(r"^    server (\S+)", nginx, re.MULTILINE) == [f"{n}:8000" for n in SERVERS]
    assert "server 127.0.0.1:7 " in front.nginx_conf(9, [7], "/somewhere")


def test_the_front_sees_one_address_of_each_server() -> None:
    """In a second network in common they would have another one, which changes with every new
    container, and nginx would go on asking the old one.
    """
    of_front = set(SERVICES["front"]["networks"])
    for name in SERVERS:
        assert of_front & set(SERVICES[name]["networks"]) == {"inside"}


def test_up_can_wait_for_all() -> None:
    """`--wait` fails for a container whose image has a health check that is switched off."""
    for name, service in SERVICES.items():
        assert not service.get("healthcheck", {}).get("disable"), name


def test_prometheus_asks_all_servers() -> None:
    asked = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    targets = [
        one for job in asked for static in job["static_configs"] for one in static["targets"]
    ]
    assert targets == [f"{name}:8000" for name in SERVERS]
    assert [job["job_name"] for job in asked] == ["ossia"]  # alerts ask for it by this name


def test_secrets_are_made_once(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run(["sh", DEPLOY / "secrets.sh", secrets], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert len(set(before.values())) == len(before)
    assert secrets.stat().st_mode & 0o777 == 0o700
    keys = {key.name: key for key in read_keys(secrets / "keys.toml")}
    assert set(keys) == {"admin", "prometheus"} and keys["admin"].limits.admin
    assert keys["prometheus"].limits == Limits(tools=frozenset(), metrics=True)
    tables = tomllib.loads(before["keys.toml"])["keys"]
    assert tables[1]["key"] == before["metrics_key"]
    assert [key.name for key in read_keys(secrets / "python_keys")] == ["ossia"]


# ---- the image ----


def test_the_image_is_made_of_files_that_are_there() -> None:
    """And that deploy/Dockerfile.dockerignore lets through."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    let = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in let
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (torch,) = (line for line in project["dependencies"] if line.startswith("torch"))
    assert torch in text
    (extras,) = re.findall(r"ossia-\*\.whl\)\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_what_the_image_starts_are_options_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    (words,) = re.findall(r"^CMD (\[.+\])$", text, re.MULTILINE)
    options = options_of(["ossia", *json.loads(words)])
    assert options.access.host == "0.0.0.0" and options.access.api_key_file
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER ossia\n" in last and "\nSTOPSIGNAL SIGTERM\n" in last and "/ready" in last


def test_an_application_for_other_programs_has_a_home_of_its_own() -> None:
    """Else two replicas under Ray would take each other's unfinished answers for their own."""
    options = options_of(["ossia", "serve", "nano"])
    homes = {serve.app_of(options).state.service.settings.home for _ in range(2)}
    assert len(homes) == 2 and all(home.endswith(".invalid") for home in homes)
