"""Generates the package vision_msgs with the generators of ROS, and compiles it.

    python vision_messages.py FOLDER

PyPI has no vision_msgs. It runs under the interpreter that has rclpy, and needs a C++ compiler.
FOLDER is then for PYTHONPATH, and FOLDER/lib for LD_LIBRARY_PATH.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy
import rosidl_generator_c
import rosidl_generator_py
import rosidl_generator_type_description
import rosidl_typesupport_c
import rosidl_typesupport_fastrtps_c
import rosidl_typesupport_introspection_c
from rosidl_adapter.msg import convert_msg_to_idl

NAME = "vision_msgs"
MESSAGES = {
    "VisionClass": "uint16 class_id\nstring class_name\n",
    "LabelInfo": "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold\n",
}
"""The two messages of vision_msgs that class names need, as they are in Humble to Lyrical."""
NEEDS = ("std_msgs", "builtin_interfaces")
PREFIX = Path(sys.prefix)
FAST, INTROSPECTION = "rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c"


def generate(folder: Path) -> Path:
    """Write the sources; return their folder, in which the package's own folder lies."""
    source = folder / "source" / NAME
    (source / "msg").mkdir(parents=True)
    for name, text in MESSAGES.items():
        (source / "msg" / f"{name}.msg").write_text(text)
        convert_msg_to_idl(source, NAME, Path("msg") / f"{name}.msg", source / "msg")
    arguments = {
        "package_name": NAME,
        "output_dir": str(source),
        "idl_tuples": [f"{source}:msg/{name}.idl" for name in MESSAGES],
        "ros_interface_dependencies": [
            f"{one}:{path}" for one in NEEDS for path in (PREFIX / "share" / one).rglob("*.idl")
        ],
        "include_paths": [f"{one}:{PREFIX / 'share' / one}" for one in NEEDS],
        "type_description_tuples": [f"msg/{n}.idl:{source / 'msg' / n}.json" for n in MESSAGES],
        "target_dependencies": [],
    }

    def run(generator, owner: str, *more) -> None:
        file = folder / "arguments.json"
        template = PREFIX / "share" / owner / "resource"
        file.write_text(json.dumps({**arguments, "template_dir": str(template)}))
        generator(str(file), *more)

    run(rosidl_generator_type_description.generate_type_hash, "rosidl_generator_c")
    run(rosidl_generator_c.generate_c, "rosidl_generator_c")
    run(rosidl_typesupport_c.generate_c, "rosidl_typesupport_c", [FAST, INTROSPECTION])
    run(rosidl_typesupport_fastrtps_c.generate_typesupport_fastrtps_c, FAST)
    # Its files have the names of others.
    arguments["output_dir"] = str(folder / "introspection" / NAME)
    run(rosidl_typesupport_introspection_c.generate_c, INTROSPECTION)
    arguments["output_dir"] = str(folder / NAME)
    supports = ["rosidl_typesupport_c", FAST]
    run(rosidl_generator_py.generate_py, "rosidl_generator_py", supports)
    for owner in ("rosidl_generator_c", FAST, INTROSPECTION):
        header = PREFIX / "share" / owner / "resource" / f"{owner}__visibility_control.h.in"
        text = header.read_text().replace("@PROJECT_NAME@", NAME)
        (source / "msg" / f"{owner}__visibility_control.h").write_text(
            text.replace("@PROJECT_NAME_UPPER@", NAME.upper())
        )
    return source


def compile_all(folder: Path, source: Path) -> None:
    """Compile the libraries into FOLDER/lib, and the extension into the package's folder."""
    lib = folder / "lib"
    lib.mkdir()
    include = [f"-I{folder / name}" for name in ("source", "introspection")]
    include += [f"-I{sysconfig.get_path('include')}"]
    include += [f"-I{path}" for path in (PREFIX / "include", *(PREFIX / "include").iterdir())]
    include.append(f"-I{numpy.get_include()}")

    def library(output: Path, files: list[Path], *kinds: str) -> None:
        links = [f"-L{lib}", f"-L{PREFIX / 'lib'}"]
        links += [f"-l{one}__{kind}" for one in NEEDS for kind in kinds]
        links += ["-lrosidl_runtime_c", "-lrosidl_typesupport_c", "-lrcutils", "-lfastcdr"]
        links += [f"-l{FAST}", f"-l{INTROSPECTION}", "-lrosidl_typesupport_fastrtps_cpp"]
        links += [f"-l{path.stem.removeprefix('lib')}" for path in lib.glob("*.so")]
        compiler = "g++" if files[0].suffix == ".cpp" else "gcc"
        command = [compiler, "-shared", "-fPIC", "-O0", "-w", *include, "-o", str(output)]
        subprocess.run([*command, *map(str, files), *links], check=True)

    detail, python = source / "msg" / "detail", folder / NAME
    parts = {
        "rosidl_generator_c": list(detail.glob("*.c")),
        FAST: list(detail.glob("*.cpp")),
        INTROSPECTION: list((folder / "introspection").rglob("*.c")),
        "rosidl_typesupport_c": list((source / "msg").glob("*.cpp")),
        "rosidl_generator_py": list((python / "msg").glob("*_s.c")),
    }
    for kind, files in parts.items():
        library(lib / f"lib{NAME}__{kind}.so", files, "rosidl_generator_c", kind)
    for support in ("rosidl_typesupport_c", FAST):
        entry = python / f"_{NAME}_s.ep.{support}.c"
        library(python / f"{NAME}_s__{support}.so", [entry], support)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    compile_all(target, generate(target))
