"""Dockerfiles and the service, as far as it goes without Docker and without a Jetson."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
UNIT = FOLDER / "degmix-edge.service"
GUIDE = ROOT / "docs" / "jetson.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
pytestmark = pytest.mark.slow(file_seconds=20)


def instructions(path):
    """Each instruction with its arguments, whose continued lines are joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text())
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.stem)
def dockerfile(request):
    return request.param


def test_there_is_one_for_each_robot():
    assert [path.stem for path in DOCKERFILES] == ["cpu", "jetpack-6.2", "jetpack-7.2"]


def test_instructions_and_images(dockerfile):
    """Images have a tag that does not move, and the guide names them."""
    stages = set()
    for name, rest in instructions(dockerfile):
        assert name in INSTRUCTIONS, name
        if name == "FROM":
            image, *alias = rest.split(" AS ")
            if image not in stages:
                assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]+", image), image
                assert not image.endswith(":latest")
                assert f"`{image}`" in GUIDE.read_text(), image
            stages |= set(alias)
        if "--from=" in rest:
            assert re.search(r"--from=(\w+)", rest)[1] in stages


def test_packages_of_the_system_leave_no_lists(dockerfile):
    for name, rest in instructions(dockerfile):
        if "apt-get" not in rest:
            continue
        assert name == "RUN"
        assert rest.index("apt-get update") < rest.index("apt-get install --yes --no-install-rec")
        assert rest.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_it_runs_as_nobody_in_particular(dockerfile):
    last = [name for name, _ in instructions(dockerfile)][-6:]
    assert last == ["RUN", "ENV", "VOLUME", "USER", "ENTRYPOINT", "CMD"]
    assert ["USER", "degmix"] in instructions(dockerfile)


def test_pip_installs_what_the_project_names(dockerfile):
    """Extras that exist, without PyTorch."""
    (named,) = re.findall(r'pip install --no-cache-dir "/src\[(.+)\]"', dockerfile.read_text())
    wanted = named.split(",")
    assert set(wanted) <= EXTRAS.keys()
    packages = [package for extra in wanted for package in EXTRAS[extra]]
    for package in packages:
        inner = re.fullmatch(r"degmix-edge\[(.+)\]", package)
        packages += EXTRAS[inner[1]] if inner else []
    assert not any(package.startswith(("torch", "degmix-edge[export")) for package in packages)


def test_the_extra_build_has_no_pytorch():
    names = {re.match(r"[\w-]+", package)[0] for package in EXTRAS["build"]}
    assert names == {"onnx", "onnx-graphsurgeon"}
    for extra in ("tensorrt", "tensorrt-wheels", "export"):
        assert "degmix-edge[build]" in EXTRAS[extra]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
def test_the_library_for_a_cpu_is_where_its_dockerfile_takes_it(tmp_path):
    text = (FOLDER / "cpu.Dockerfile").read_text()
    (source, options), (target,), (built,) = (
        re.search(pattern, text).groups()
        for pattern in (
            r"cmake -S (\S+) -B /build (.+) \\",
            r"--build /build --target (\w+)",
            r"native (/build/\S+)",
        )
    )
    configure = ["cmake", "-S", source.replace("/src", str(ROOT)), "-B", str(tmp_path)]
    subprocess.run([*configure, *options.split()], check=True, capture_output=True)
    command = ["cmake", "--build", str(tmp_path), "--target", target]
    subprocess.run(command, check=True, capture_output=True)
    assert Path(built.replace("/build", str(tmp_path))).is_file()


def test_a_wheel_has_the_ready_bundle_and_native_libraries(tmp_path):
    """As a Dockerfile makes it: libraries are there before the package is installed."""
    source = tmp_path / "src"
    for name in ("degmix_edge", "training", "calibration"):
        ignored = shutil.ignore_patterns("__pycache__", "native")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "degmix_edge" / "native").mkdir()
    (source / "degmix_edge" / "native" / "libdegmix_pixels.so").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    bundle = ROOT / "degmix_edge" / "ready" / "degmix_tiny.degmix"
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in files} <= set(names)
    assert "degmix_edge/native/libdegmix_pixels.so" in names
    assert wheel.stat().st_size < 18_000_000


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_service(tmp_path):
    """It also checks that programs exist, so they are those of this machine."""
    text = UNIT.read_text()
    assert text.count("/opt/degmix/bin/degmix-edge") == 2
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/degmix/bin/degmix-edge", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_checks_the_bundle_before_it_starts_the_node():
    verbs = re.findall(r"/opt/degmix/bin/degmix-edge (\w+)", UNIT.read_text())
    assert verbs == ["verify", "ros"]


def test_the_service_gives_the_node_its_arguments(tmp_path):
    """Systemd and bash both replace variables: `$$` is for bash."""
    (line,) = re.findall(r"(?m)^ExecStart=/bin/bash -c '(.+)'$", UNIT.read_text())
    script = line.replace("$$", "$").replace("exec /opt/degmix/bin/degmix-edge", "printf '%s|'")
    script = script.replace("/opt/ros/", "./")
    done = subprocess.run(
        ["bash", "-c", "mkdir -p jazzy && echo export SOURCED=1 > jazzy/setup.bash; " + script],
        env={
            "PATH": "/bin:/usr/bin",
            "ROS_DISTRO": "jazzy",
            "DEGMIX_BUNDLE": "/a b/robot.degmix",
            "ROS_ARGS": "--ros-args -p native:=true",
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout == "ros|/a b/robot.degmix|--ros-args|-p|native:=true|"
