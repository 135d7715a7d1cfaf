"""`build engine -c FILE`, `--dry-run`, and what every verb has: quiet, verbose, log, completion."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from degmix_edge.cli import verbs

pytestmark = pytest.mark.slow


def write(tmp_path, **values):
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values))


def test_a_build_from_a_file_whose_values_can_be_overridden(cli, tmp_path, onnx_path):
    write(tmp_path, network=str(onnx_path), precision="fp16", tasks=["depth"], out="a.degmix")
    code, out, err = cli("build", "engine", "-c", "robot.yaml", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert (values["bundle"], values["precision"], values["tasks"]) == (
        "a.degmix",
        "fp16",
        ["depth"],
    )
    code, out, _ = cli(
        "build", "engine", "-c", "robot.yaml", "--precision", "fp32", "--out", "b.degmix", "--json"
    )
    values = json.loads(out)
    assert (values["bundle"], values["precision"], values["tasks"]) == (
        "b.degmix",
        "fp32",
        ["depth"],
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precison": "fp32"}, "no setting 'precison'.*Did you mean 'precision'"),
        ({"precision": "fp4"}, "precision: .*fp8"),
        ({"version": 7}, "version 7, this degmix-edge reads version 1"),
        ({"tasks": ["depht"], "precision": "fp32"}, "Did you mean 'depth'"),
    ],
)
def test_a_file_with_mistakes_is_refused_before_any_work(cli, tmp_path, onnx_path, values, message):
    write(tmp_path, network=str(onnx_path), **values)
    code, _, err = cli("build", "engine", "-c", "robot.yaml")
    assert code == 3
    assert re.search(message, err), err
    assert not (tmp_path / "robot.degmix").exists()


def test_no_file_and_no_network(cli):
    assert cli("build", "engine", "-c", "none.yaml")[0] == 3
    code, _, err = cli("build", "engine")
    assert code == 3
    assert "no network: give CHECKPOINT_OR_ONNX_OR_BUNDLE, or -c" in err


def test_a_dry_run_checks_and_builds_nothing(cli, tmp_path, onnx_path):
    code, out, err = cli("build", "engine", onnx_path, "--precision", "fp16", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["options"]["precision"] == "fp16"
    assert "would build robot.degmix from" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = cli("build", "engine", onnx_path, "--dry-run")
    assert code == 3
    assert "--precision int8 needs --calib" in err


def test_a_bundle_is_built_again_where_out_says(cli, tmp_path, bundles):
    code, _, err = cli("build", "engine", bundles["fp32"].path, "--out", "other.degmix")
    assert code == 0, err
    assert (tmp_path / "other.degmix" / "manifest.json").exists()
    assert cli("build", "engine", bundles["fp32"].path, "--out", "other.degmix")[0] == 12


def test_quiet_verbose_and_a_log_file(cli, tmp_path, bundles):
    path = bundles["fp32"].path
    code, out, err = cli("verify", path, "--quiet", "--log-file", "log.txt", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["golden"]["passed"]
    assert "verified" in (tmp_path / "log.txt").read_text()
    _, _, err = cli("verify", "none.degmix", "--quiet")
    assert "no such bundle" in err
    _, _, err = cli("verify", "none.degmix", "--verbose")
    assert "Traceback" in err


def test_shells_get_a_script_and_names(cli):
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = cli("completion", shell)
        assert code == 0
        assert "degmix-edge" in out
        assert "_DEGMIX_EDGE_COMPLETE" in out
    words = "degmix-edge quantize x --tasks depth,se"
    environment = os.environ | {
        "_DEGMIX_EDGE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": "4",
    }
    code = "import sys; sys.argv = ['degmix-edge']; from degmix_edge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "depth,semseg" in done.stdout


def test_every_verb_ends_with_an_example(cli):
    context = verbs.make_context("degmix-edge", ["doctor"])
    for name in verbs.list_commands(context):
        command = verbs.get_command(context, name)
        leaves = list(getattr(command, "commands", {}).values()) or [command]
        for leaf in leaves:
            assert f"degmix-edge {name}" in (leaf.epilog or ""), name


def test_all_help_and_lists_work_without_torch():
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'onnxruntime', 'lightning', 'timm'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from degmix_edge.cli import invoke, verbs\n"
        "context = verbs.make_context('degmix-edge', ['doctor'])\n"
        "lines = [[n, '--help'] for n in verbs.list_commands(context)]\n"
        "lines += [['build', 'engine', '--help'], ['zoo', '--list'], ['train', '--list']]\n"
        "print([line for line in lines if invoke(line) != 0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("columns", [80, 100])
def test_no_help_is_cut_or_shows_markup(cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    context = verbs.make_context("degmix-edge", ["doctor"])
    for name in ["", *verbs.list_commands(context)]:
        code, out, _ = cli(*name.split(), "--help")
        assert code == 0
        usage, *rest = out.splitlines()
        assert not [line for line in rest if line.endswith("...")], name
        assert "\\b" not in out
        assert "\b" not in out
