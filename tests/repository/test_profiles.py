"""The executors' profiles: every key is one that Snakemake or its plug-in knows. No cluster is needed or asked."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("snakemake")
from snakemake.cli import get_argument_parser
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

ROOT = Path(__file__).resolve().parents[2]
PROFILES = {p.parent.name: p for p in sorted(ROOT.glob("workflow/profiles/*/config.yaml"))}
NESTED = {
    "default-resources",
    "set-resources",
    "set-threads",
    "resources",
    "config",
}  # Snakemake drops other mappings


def arguments(profile: Path, monkeypatch):
    """What Snakemake makes of a profile; an unknown key or a wrong choice ends in SystemExit."""
    monkeypatch.chdir(ROOT)
    return get_argument_parser(profiles=[str(profile.parent)]).parse_args([])


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every long option, those of the installed executors among them."""
    return {o[2:] for a in get_argument_parser()._actions for o in a.option_strings if o.startswith("--")}


def test_there_is_a_profile_for_every_executor():
    assert {"local", "slurm", "kubernetes"} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option(name, known, monkeypatch):
    given = yaml.safe_load(PROFILES[name].read_text(encoding="utf-8"))
    assert not set(given) - known, f"unknown: {sorted(set(given) - known)}"
    assert {key for key, value in given.items() if isinstance(value, dict)} <= NESTED
    found = arguments(PROFILES[name], monkeypatch)
    assert (found.executor or "local") == given.get("executor", "local")
    assert found.keep_going and found.rerun_incomplete
    if executor := given.get("executor"):
        assert executor == name
        plugin = ExecutorPluginRegistry().get_plugin(executor)
        plugin.validate_settings(plugin.get_settings(found))


@pytest.mark.parametrize("wrong", ["slurm-no-acount: true", "rerun-triggers: [inptu]", "latency-wiat: 5"])
def test_a_misspelt_line_fails(wrong, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(PROFILES["slurm"].parent, tmp_path / "slurm")
    file = folder / "config.yaml"
    key = wrong.split(":")[0]
    lines = [x for x in file.read_text(encoding="utf-8").splitlines() if not x.startswith(f"{key}:")]
    file.write_text("\n".join([*lines, wrong]) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        arguments(file, monkeypatch)
    assert wrong.split()[-1].strip("[]") in (said := capsys.readouterr().err) or key in said


def test_slurm_gives_a_gpu_to_trainings_only():
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    given = yaml.safe_load(PROFILES["slurm"].read_text(encoding="utf-8"))
    everywhere = given["default-resources"]
    assert "slurm_partition" in everywhere and not {"gpu", "gres"} & set(everywhere)
    job = SimpleNamespace(resources=everywhere)
    assert set_gres_string(job) == ""
    assert set_gres_string(SimpleNamespace(resources=everywhere | {"gpu": 1})).split() == ["--gpus=1"]


@pytest.mark.parametrize(("rule", "gpus"), [("train", 1), ("notebook", 0)])
def test_kubernetes_renders_a_job_with_its_limits(rule, gpus, monkeypatch):
    """The plug-in's own rendering of the profile; the cluster's side is replaced by a list."""
    plugin = pytest.importorskip("snakemake_executor_plugin_kubernetes")
    found = arguments(PROFILES["kubernetes"], monkeypatch)
    settings = ExecutorPluginRegistry().get_plugin("kubernetes").get_settings(found)
    own = {name: resource.raw for name, resource in found.set_resources.get(rule, {}).items()}
    sent = []
    executor = object.__new__(plugin.Executor)
    vars(executor).update(
        logger=SimpleNamespace(debug=lambda _: None, info=lambda _: None),
        workflow=SimpleNamespace(deployment_settings=SimpleNamespace(deployment_method=set())),
        k8s_cpu_scalar=settings.cpu_scalar,
        k8s_service_account_name=settings.service_account_name,
        batchapi=SimpleNamespace(
            create_namespaced_job=lambda namespace, body: sent.append((namespace, body))
        ),
        namespace=settings.namespace,
        run_namespace="test",
        secret_envvars={},
        container_image=found.container_image,
        privileged=settings.privileged,
        persistent_volumes=settings.persistent_volumes,
        _kubernetes_retry=lambda send: send(),
        format_job_exec=lambda job: "true",
        report_job_submission=lambda info: None,
    )
    asked = {"_cores": 1, "mem_mb": 6000} | ({"gpu": gpus} if gpus else {}) | own
    executor.run_job(SimpleNamespace(jobid=1, attempt=1, is_containerized=False, resources=asked))
    ((namespace, body),) = sent
    (container,) = body.spec.template.spec.containers
    assert namespace == "default" and "EDIT-ME" in container.image
    assert (container.resources.limits or {}).get("nvidia.com/gpu") == (str(gpus) if gpus else None)
    (volume,) = settings.persistent_volumes
    assert str(volume.path) in {mount.mount_path for mount in container.volume_mounts}
    # the outputs lie in the checkout, the checkout on the volume
    assert Path(found.default_storage_prefix).is_relative_to(volume.path)
    assert found.default_storage_provider == "fs" and set(found.envvars) == {"FLOWOOD_ROOT"}
