"""The files of deploy/: by the linters and schemas of those who read them, and by what the code really does."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.33"
TOOLS = Path(sys.executable).parent


def roots(project: Path, extras: list[str]) -> list[str]:
    found: list[str] = runpy.run_path(str(ROOT / "scripts/roots.py"))["roots"](project, extras)
    return found


def documents(path: Path) -> list[Any]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    where = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if where is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([where, *words], capture_output=True, text=True, encoding="utf-8")


def flags(help_text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", help_text))


@pytest.fixture(scope="module")
def serve_flags() -> set[str]:
    command = [sys.executable, "-m", "vivace.cli.main", "serve", "--help"]
    return flags(subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout)


def test_the_dockerfile_is_clean_and_the_linter_can_say_no(tmp_path: Path) -> None:
    done = tool("hadolint", str(DEPLOY / "Dockerfile"))
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && pip install fastapi\n", encoding="utf-8")
    assert tool("hadolint", str(tmp_path / "Dockerfile")).returncode != 0


def test_the_image_runs_as_nobody_and_looks_after_itself() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.M) and "HEALTHCHECK" in last and "/health/ready" in last
    assert text.count("\nFROM ") == 2 and "--require-hashes" in text


def test_what_the_dockerfile_copies_is_let_into_the_build() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    named = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]}
    let_in = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert named == let_in and all((ROOT / name).exists() for name in named)


def test_every_package_of_the_image_is_in_the_lock() -> None:
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M))
    default = re.search(r'^ARG EXTRAS="(.*)"$', (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert default
    needed = roots(ROOT / "pyproject.toml", default[1].split())
    assert {"fastapi", "onnxruntime", "piper-tts", "openvino"} <= set(needed)
    assert {re.split(r"[\[ ]", name)[0] for name in needed} <= locked


def test_roots_follow_extras_of_extras() -> None:
    assert "torch" in roots(ROOT / "pyproject.toml", ["torch"])
    assert "safetensors" in roots(ROOT / "pyproject.toml", ["torch"])
    assert "ray[serve]" in roots(ROOT / "pyproject.toml", ["ray"])
    assert not [name for name in roots(ROOT / "pyproject.toml", ["demo"]) if name.startswith("vivace")]
    with pytest.raises(SystemExit, match="there is no extra nothing"):
        roots(ROOT / "pyproject.toml", ["nothing"])


def test_the_compose_file_is_one() -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
    assert done.returncode == 0, done.stdout


def test_compose_finds_its_files_and_is_closed(serve_flags: set[str]) -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            known = source in compose["volumes"] or source == "./models" or (DEPLOY / source).is_file()
            assert known, source
    server = compose["services"]["vivace"]
    assert server["read_only"] and (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    assert flags(" ".join(server["command"])) <= serve_flags


def test_the_composed_server_knows_its_limits() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    server = compose["services"]["vivace"]
    given = dict(zip(server["command"][1::2], server["command"][2::2], strict=True))
    assert int(given["--cores"]) == server["cpus"]
    (scratch,) = (int(found[1]) for entry in server["tmpfs"] if (found := re.search(r"size=(\d+)m", entry)))
    assert server["mem_limit"] == "2g" and given["--memory"].endswith("M")
    assert int(given["--memory"][:-1]) * 1e6 + scratch * 2**20 < 2 * 2**30


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.stem != "kustomization"], ids=lambda p: p.stem)
def test_manifests_are_what_kubernetes_reads(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        validate.validate(document, KUBERNETES, strict=True)


def test_the_schema_can_say_no() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    (deployment,) = documents(DEPLOY / "kubernetes/deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, KUBERNETES, strict=True)


def test_kustomize_builds_all_of_them() -> None:
    done = tool("kubectl", "kustomize", str(DEPLOY / "kubernetes"))
    assert done.returncode == 0, done.stderr
    kinds = sorted(found["kind"] for found in yaml.safe_load_all(done.stdout))
    assert kinds == sorted(d["kind"] for path in MANIFESTS if path.stem != "kustomization" for d in documents(path))


def containers() -> Iterator[tuple[str, Any, Any]]:
    """Every container with its pod's specification."""
    (deployment,) = documents(DEPLOY / "kubernetes/deployment.yaml")
    (ray,) = documents(DEPLOY / "kuberay/rayservice.yaml")
    groups = [ray["spec"]["rayClusterConfig"]["headGroupSpec"], *ray["spec"]["rayClusterConfig"]["workerGroupSpecs"]]
    for owner in (deployment["spec"], *groups):
        pod = owner["template"]["spec"]
        yield from ((container["name"], container, pod) for container in pod["containers"])


@pytest.mark.parametrize(("name", "container", "pod"), list(containers()), ids=lambda found: str(found)[:9])
def test_pods_are_bounded_probed_and_closed(name: str, container: Any, pod: Any) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
    validate.validate(whole, KUBERNETES, strict=True)
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert container["readinessProbe"] and container["livenessProbe"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_deployment_asks_for_what_the_server_has(serve_flags: set[str]) -> None:
    (deployment,) = documents(DEPLOY / "kubernetes/deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    server = pod["containers"][0]
    assert flags(" ".join(server["args"])) <= serve_flags
    assert server["args"][server["args"].index("--cores") + 1] == server["resources"]["limits"]["cpu"]
    from vivace.server.service import Settings

    assert pod["terminationGracePeriodSeconds"] > Settings({}).grace + 5  # and the seconds before the signal
    app = (ROOT / "src/vivace/server/app.py").read_text(encoding="utf-8")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f'"{server[probe]["httpGet"]["path"]}"' in app


def test_kuberay_runs_what_there_is() -> None:
    ray = pytest.importorskip("ray")
    from ray.serve.schema import ServeDeploySchema

    from vivace.server import cluster

    (service,) = documents(DEPLOY / "kuberay/rayservice.yaml")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema(**config)
    (application,) = config["applications"]
    module, _, function = application["import_path"].partition(":")
    assert module == cluster.__name__ and callable(getattr(cluster, function))
    least, most = cluster.span(application["args"]["replicas"])
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cores = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    doors = 1
    assert least + doors <= cores * workers["minReplicas"]
    assert most * application["args"]["cores"] + doors <= cores * workers["maxReplicas"]
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_prometheus_reads_its_configuration() -> None:
    (config,) = documents(DEPLOY / "monitoring/prometheus.yaml")
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert all(target.split(":")[0] in compose["services"] for target in targets)
    done = tool("promtool", "check", "config", str(DEPLOY / "monitoring/prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_what_the_server_measures() -> None:
    pytest.importorskip("prometheus_client")
    from vivace.server.metrics import Metrics

    board = json.loads((DEPLOY / "monitoring/dashboard.json").read_text(encoding="utf-8"))
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    there = {family.name + suffix for family in Metrics().registry.collect() for suffix in kinds[family.type]}
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown += [variable["query"] for variable in board["templating"]["list"]]
    used = {name for text in shown for name in re.findall(r"\bvivace_\w+", text)}
    assert used and used <= there, used - there
    families = {family.name for family in Metrics().registry.collect()}
    unseen = {name for name in families if not any(text.startswith(name) for text in used)}
    assert not unseen, f"measured and not shown: {unseen}"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
