"""The manifests of docs/deploy keep what their README promises: ends, probes, rights, secrets, commands that exist."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from crawler.cli import EXIT_INTERRUPTED, EXIT_USAGE, main
from crawler.monitor.page import StatusPage
from crawler.settings import Settings, StatusSettings, environment_layer, load

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "deploy"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
MANIFESTS = {path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) for path in FOLDER.glob("*.yaml")}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
ENGINE = "valkey-server"


class Workload(NamedTuple):
    """A template of pods, and what it stands in."""

    name: str
    spec: dict[str, Any]
    pod: dict[str, Any]


def of_kind(kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [each for each in chain(*MANIFESTS.values()) if each["kind"] == kind]
    assert len(found) == 1
    return found[0]


def workload(name: str, spec: dict[str, Any]) -> Workload:
    return Workload(name, spec, spec["template"]["spec"])


JOBS = [
    workload("job.yaml", of_kind("Job")["spec"]),
    workload("cronjob.yaml", of_kind("CronJob")["spec"]["jobTemplate"]["spec"]),
]
PODS = [*JOBS, workload("engine.yaml", of_kind("StatefulSet")["spec"])]
jobs = pytest.mark.parametrize("job", JOBS, ids=[each.name for each in JOBS])
pods = pytest.mark.parametrize("each", PODS, ids=[each.name for each in PODS])


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: dict[str, Any], folder: Path) -> dict[str, str]:
    """What the container's settings are made of: secrets from a folder, fields of the pod as some text."""
    values = {}
    for variable in container["env"]:
        value = variable.get("value", "books-29012345")
        if value.startswith("/run/secrets/crawl/"):
            key = value.removeprefix("/run/secrets/crawl/")
            path = folder / key
            path.write_text(of_kind("Secret")["stringData"][key])
            value = str(path)
        values[variable["name"]] = value
    return values


def test_every_manifest_has_a_version_a_kind_and_a_name_and_is_named_in_the_readme() -> None:
    assert MANIFESTS.keys() == {"job.yaml", "cronjob.yaml", "engine.yaml", "secret.yaml"}
    for name, documents in MANIFESTS.items():
        assert f"]({name})" in README
        for document in documents:
            assert document.keys() >= {"apiVersion", "kind", "metadata"}
            assert re.fullmatch(r"[a-z0-9-]{1,63}", document["metadata"]["name"])


# -- ends --------------------------------------------------------------------------------------------------------------


@jobs
def test_workers_are_a_work_queue_in_which_a_signal_is_no_failure_and_a_wrong_setting_is(job: Workload) -> None:
    assert job.spec["parallelism"] > 1
    assert "completions" not in job.spec
    assert job.pod["restartPolicy"] == "Never"
    rules = job.spec["podFailurePolicy"]["rules"]
    by_code = {tuple(rule["onExitCodes"]["values"]): rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {(EXIT_INTERRUPTED,): "Ignore", (EXIT_USAGE,): "FailJob"}
    assert {rule["onExitCodes"]["operator"] for rule in rules if "onExitCodes" in rule} == {"In"}
    disrupted = [rule for rule in rules if "onPodConditions" in rule]
    assert [rule["action"] for rule in disrupted] == ["Ignore"]
    assert disrupted[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@jobs
def test_a_worker_has_longer_to_stop_than_it_takes_to_drain(job: Workload, tmp_path: Path) -> None:
    settings = load([environment_layer(environment(job.pod["containers"][0], tmp_path))]).settings
    assert 30 <= job.pod["terminationGracePeriodSeconds"] <= 60
    assert job.pod["terminationGracePeriodSeconds"] >= settings.crawl.drain_seconds + 5 + 10
    assert f"terminationGracePeriodSeconds: {job.pod['terminationGracePeriodSeconds']}`" in README
    assert f"`crawl.drain_seconds` ({Settings().crawl.drain_seconds:g})" in README


def test_nights_do_not_overlap_and_each_is_a_crawl_of_its_own() -> None:
    cron = of_kind("CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    (worker,) = JOBS[1].pod["containers"]
    (crawl,) = [variable for variable in worker["env"] if variable["name"] == "CRAWLER_FRONTIER__CRAWL"]
    assert crawl["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    assert worker["args"][-1] == "/data/$(CRAWLER_FRONTIER__CRAWL).jsonl"


# -- probes ------------------------------------------------------------------------------------------------------------


@jobs
async def test_probes_ask_paths_that_are_there_and_life_does_not_depend_on_the_engine(job: Workload) -> None:
    (worker,) = job.pod["containers"]
    probes = {kind: worker[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    port = int(re.search(r"CRAWLER_STATUS__LISTEN=0\.0\.0\.0:(\d+)", (ROOT / "Dockerfile").read_text())[1])  # type: ignore[index]
    (named,) = worker["ports"]
    assert named == {"name": "status", "containerPort": port}
    assert {probe["port"] for probe in probes.values()} == {"status"}

    from aiohttp import ClientSession

    settings = StatusSettings(listen="127.0.0.1:0")
    async with StatusPage(settings, snapshot=dict, ready=lambda: "no engine") as page, ClientSession() as session:
        for path, status in (("/healthz", 200), ("/readyz", 503)):
            async with session.get(page.url + path) as answer:
                assert answer.status == status
        for path in re.findall(r"\| `(/[a-z]+)` \|", README):
            async with session.get(page.url + path) as answer:
                assert answer.status != 404


# -- rights and secrets ------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S55")
@pods
def test_no_pod_has_rights_that_it_does_not_need(each: Workload) -> None:
    user = 999 if each.name == "engine.yaml" else 10001
    assert each.pod["securityContext"]["runAsNonRoot"] is True
    assert each.pod["securityContext"]["runAsUser"] == user
    assert each.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert each.pod["automountServiceAccountToken"] is False
    assert each.pod["enableServiceLinks"] is False
    for container in containers(each.pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/data", "/tmp"}


def test_users_are_those_of_the_images() -> None:
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    context = PODS[-1].pod["securityContext"]
    assert COMPOSE["services"]["engine"]["user"] == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert COMPOSE["services"]["engine"]["image"] == PODS[-1].pod["containers"][0]["image"]


def test_secrets_are_mounted_from_one_secret_and_stand_nowhere_else() -> None:
    secret = of_kind("Secret")
    assert all("REPLACE-THIS" in value for value in secret["stringData"].values())
    for each in PODS:
        (mounted,) = [volume["secret"] for volume in each.pod["volumes"] if "secret" in volume]
        assert mounted["secretName"] == secret["metadata"]["name"]
        keys = {item["key"] for item in mounted["items"]}
        assert keys <= secret["stringData"].keys()
        used = set(re.findall(r"/run/secrets/crawl/([\w.-]+)", str(each.pod)))
        assert used == keys
        for container in containers(each.pod):
            assert not [v for v in container.get("env", []) if re.search(r"(URL|TOKEN|PASSWORD)$", v["name"])]
    literals = set(re.findall(r"--from-literal=([\w.-]+)=", README))
    assert literals == secret["stringData"].keys()


def test_the_engine_is_for_workers_alone() -> None:
    policy = of_kind("NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    (ingress,) = policy["ingress"]
    (workers,) = ingress["from"]
    for job in JOBS:
        assert job.spec["template"]["metadata"]["labels"] == workers["podSelector"]["matchLabels"]
    labels = PODS[-1].spec["template"]["metadata"]["labels"]
    assert labels == policy["podSelector"]["matchLabels"] == of_kind("Service")["spec"]["selector"]
    assert f"@{of_kind('Service')['metadata']['name']}:6379/" in of_kind("Secret")["stringData"]["frontier-url"]


# -- what is run -------------------------------------------------------------------------------------------------------


@jobs
def test_settings_exist_and_commands_are_known(
    job: Workload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = set(re.findall(r"^ {4}(\w+)", capsys.readouterr().out, re.MULTILINE))
    for container in containers(job.pod):
        settings = load([environment_layer(environment(container, tmp_path))]).settings
        assert settings.frontier.url == of_kind("Secret")["stringData"]["frontier-url"]
        assert settings.status.token
        if container["args"][0] in verbs:
            with pytest.raises(SystemExit) as ended:
                main([*container["args"], "--help"])
            assert ended.value.code == 0
    assert "run" in verbs


def test_the_engine_has_the_flags_of_the_compose_file_and_a_bound_that_fits() -> None:
    def flags(command: list[str]) -> dict[str, str]:
        words = [word for word in command if word != ENGINE and not word.startswith("/run/secrets/")]
        return dict(zip(words[::2], words[1::2], strict=True))

    (container,) = PODS[-1].pod["containers"]
    own = flags(container["args"])
    bound = int(own.pop("--maxmemory").removesuffix("mb"))
    assert own == flags(COMPOSE["services"]["engine"]["command"])
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert 2 * bound <= limit * 1024
    assert "ReadWriteOnce" in PODS[-1].spec["volumeClaimTemplates"][0]["spec"]["accessModes"]


def test_yaml_in_the_readme_is_yaml_and_metrics_in_it_are_served() -> None:
    from test_monitor import a_snapshot

    from crawler.monitor.metrics import Metrics

    seen = a_snapshot(status={"200": 1}, failures={"dns": 1}, custom={"x": 1})
    served = Metrics(lambda: seen).text().decode()
    for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL):
        assert yaml.safe_load(block)
    names = set(re.findall(r"\b(?:crawler|process)_[a-z_]+", README))
    assert len(names) > 15
    for name in names:
        assert re.search(rf"^{name}[ {{]", served, re.MULTILINE), name


def test_the_readme_names_the_exit_codes_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    told = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)
    assert told == ["0", "1", "2", "69", "75", "137"]
    for code in told[:-1]:
        assert re.search(rf"\b{code}\b", said)
