"""What the machine code of every kernel does, counted from a built library.

python plugins/tools/sass.py LIBRARY [--json] [--kernel NAME]
python plugins/tools/sass.py LIBRARY --readme   # rewrites the table of plugins/README.md

Needs `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`, and no card.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- machine code -->\n", "<!-- end of machine code -->\n"
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
PARTS = {
    "tensor": ("HMMA", "IMMA", "HGMMA", "IGMMA", "DMMA"),
    "half": ("HFMA2", "HADD2", "HMUL2", "HSETP2", "HMNMX2", "HSET2"),
    "float": ("FFMA", "FADD", "FMUL", "FMNMX", "FSETP", "FSEL", "FSET", "FCHK"),
    "multiply": ("IMAD", "UIMAD", "IDP"),
    "special": ("MUFU", "F2I", "I2F", "F2F", "FRND"),
    "convert": ("I2FP", "F2FP"),
    "global": ("LDG", "STG", "LDGSTS", "ATOMG", "RED"),
    "shared": ("LDS", "STS", "LDSM", "ATOMS", "STSM"),
    "local": ("LDL", "STL"),
    "branch": ("BRA", "BAR", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "WARPSYNC", "BRX"),
}
"""Units of a multiprocessor by the beginning of an instruction's name; the rest is `integer`."""
VARIANT = "(degmix::DeformSampleVariant)"
TYPES = {
    "__half": "fp16",
    "float": "fp32",
    "signed char": "int8",
    f"{VARIANT}1": "shared",
    f"{VARIANT}2": "direct",
    f"{VARIANT}3": "compact",
}
"""Words of a table for the template arguments of kernels."""
SIZES = {"fp16": 2, "fp32": 4, "int8": 1}


@dataclass(frozen=True)
class Loop:
    """One loop: innermost, or around innermost ones with tensor instructions of its own.

    Attributes:
        start, end: Addresses of its first and its last instruction.
        instructions: How many a thread executes a turn, if it takes every branch. Those of loops
            inside are not among them.
        parts: The same by unit.
        macs: Multiply-adds of a warp's tensor instructions in a turn.
        divisions: Integer divisions, each of which is about 20 instructions.
        widths: How often memory is read and written, by instruction and width, as `LDG.128`.
    """

    start: int
    end: int
    instructions: int
    parts: dict[str, int]
    macs: int
    divisions: int
    widths: dict[str, int]


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture.

    Attributes:
        name: As in `deformSampleKernel<fp16, fp16, shared, 2>`.
        architecture: As in `sm_87`.
        instructions: How many the whole kernel has, without padding.
        registers, stack: What a thread takes; the stack is local memory in bytes.
        shared: Static shared memory of a block in bytes.
        loops: Its loops, the longest first.
    """

    name: str
    architecture: str
    instructions: int
    registers: int
    stack: int
    shared: int
    loops: tuple[Loop, ...]

    @property
    def samples(self) -> int:
        """Values that a thread stores in a turn of the main loop."""
        stored = {w: n for w, n in self.main.widths.items() if w.startswith("STG.")}
        size = next((s for name, s in SIZES.items() if f"<{name}" in self.name), 2)
        return sum(int(w.strip("STG.U")) // 8 * n for w, n in stored.items()) // size

    @property
    def main(self) -> Loop:
        """The loop that a kernel is about: with tensor cores, or the longest that stores.

        A kernel without loops, which is empty on this architecture, has an empty one.
        """
        tensor = [loop for loop in self.loops if loop.parts.get("tensor")]
        stores = [loop for loop in self.loops if loop.parts.get("stores")]
        return (tensor or stores or [*self.loops, Loop(0, 0, 0, {}, 0, 0, {})])[0]


def tool(name: str) -> str:
    """Path of `cuobjdump` or `nvdisasm`: of the CUDA toolkit, or of NVIDIA's wheel."""
    found = shutil.which(name)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob(f"*/bin/{name}")):
            found = found or str(path)
    if found is None:
        raise SystemExit(f"no {name}: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    os.chmod(found, 0o755)  # pip does not keep the mark of a program
    return found


def kernels(library: Path) -> list[Kernel]:
    """Every kernel of a library, by architecture and name."""
    tool("nvdisasm")
    path = os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}

    def dump(option: str) -> str:
        command = [tool("cuobjdump"), option, str(library)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    used = _resources(dump("--dump-resource-usage"))
    found: dict[tuple[str, str], Kernel] = {}
    architecture = ""
    for part in re.split(r"(?=\n\s+Function : )|(?=\narch = )", dump("--dump-sass")):
        if match := re.match(r"\s*arch = (sm_\w+)", part):
            architecture = match[1]
        if match := re.match(r"\s+Function : (\w+)", part):
            kernel = _kernel(match[1], architecture, part, used[architecture, match[1]])
            found[architecture, kernel.name] = kernel
    return [found[key] for key in sorted(found)]


def _resources(text: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Registers, stack and static shared memory by architecture and symbol."""
    found, architecture, symbol = {}, "", ""
    for line in text.splitlines():
        if match := re.match(r"\s*arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            symbol = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            registers, stack, shared = map(int, match.groups())
            found[architecture, symbol] = registers, stack, shared
    return found


def _kernel(symbol: str, architecture: str, text: str, used: tuple[int, int, int]) -> Kernel:
    matches = filter(None, map(INSTRUCTION.match, text.splitlines()))
    lines = [(int(match[1], 16), match[2], match[3]) for match in matches]
    # What follows the last return is padding: a branch to itself, and NOPs.
    last = max(i for i, (_, name, _) in enumerate(lines) if name.startswith(("EXIT", "RET", "BRA")))
    while lines[last][1] == "BRA" and int(lines[last][2], 16) == lines[last][0]:
        last -= 1
    lines = [line for line in lines[: last + 1] if line[1] != "NOP"]
    intervals = _intervals(lines)
    loops = [
        _loop(lines, interval, [x for x in intervals if _is_inside(x, interval)])
        for interval in intervals
    ]
    loops = [
        loop
        for loop, interval in zip(loops, intervals, strict=True)
        if loop.macs or not any(_is_inside(x, interval) for x in intervals)
    ]
    loops.sort(key=lambda loop: -loop.instructions)
    return Kernel(plain(symbol), architecture, len(lines), *used, tuple(loops))


def _intervals(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """First and last address of every backward branch."""
    found = set()
    for address, name, operands in lines:
        if name.startswith("BRA") and (match := re.search(r"0x([0-9a-f]+)", operands)):
            target = int(match[1], 16)
            if target < address:
                found.add((target, address))
    return sorted(found)


def _is_inside(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return b[0] <= a[0] and a[1] <= b[1] and a != b


def _loop(
    lines: list[tuple[int, str, str]], interval: tuple[int, int], inner: list[tuple[int, int]]
) -> Loop:
    """Count the instructions of an interval, without those of the loops inside it."""
    start, end = interval
    inside = [
        (name, operands)
        for address, name, operands in lines
        if start <= address <= end and not any(a <= address <= b for a, b in inner)
    ]
    parts: Counter[str] = Counter()
    widths: Counter[str] = Counter()
    divisions = macs = 0
    for name, _ in inside:
        word = name.partition(".")[0]
        unit = next((unit for unit, names in PARTS.items() if word in names), "integer")
        parts[unit] += 1
        parts["stores"] += word == "STG"
        macs += _macs(name)
        # An unsigned division begins with the reciprocal of its rounded divisor.
        divisions += name in ("I2F.U32.RP", "I2F.RP", "I2F.U64.RP")
        if word in ("LDG", "STG", "LDS", "STS", "LDGSTS"):
            width = next((w for w in ("128", "64", "U16", "S16", "U8", "S8") if w in name), "32")
            widths[f"{word}.{width}"] += 1
        elif word in ("LDSM", "STSM"):
            widths[f"{word}.{32 * int(name[-1])}"] += 1  # of so many matrices
    counted = {unit: count for unit, count in sorted(parts.items()) if count}
    return Loop(start, end, len(inside), counted, macs, divisions, dict(sorted(widths.items())))


def _macs(name: str) -> int:
    """Multiply-adds of a warp's share of a tensor instruction, from the shape in its name."""
    if match := re.match(r"[HI]MMA\.(16|8)(8|16)(\d+)", name):
        m, n, k = map(int, match.groups())
        return m * n * k
    if match := re.match(r"[HI]GMMA\.(\d+)x(\d+)x(\d+)", name):
        m, n, k = map(int, match.groups())
        return m * n * k // 4  # of four warps
    return 0


def plain(symbol: str) -> str:
    """`deformConv2dKernel<fp16, 256, true>` of a mangled name."""
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\w+)<([^>]*)>", text)
    if match is None:
        return re.sub(r"\(.*", "", text).strip()
    words = [TYPES.get(a, re.sub(r"^\([\w:]+\)", "", a)) for a in re.split(", *", match[2])]
    return f"{match[1]}<{', '.join(words)}>"


def table(found: list[Kernel]) -> str:
    """A markdown table: a row a kernel, with the counts of each architecture."""
    architectures = sorted({kernel.architecture for kernel in found})
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in found:
        by_name.setdefault(kernel.name, {})[kernel.architecture] = kernel
    columns = [
        "kernel",
        *architectures,
        "divisions",
        "stack",
        f"main loop's memory, {architectures[-1]}",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, ours in sorted(by_name.items()):
        last = ours[max(ours)]
        cells = [f"`{name}`", *(_count(ours[a]) if a in ours else "-" for a in architectures)]
        cells.append(str(max(sum(x.divisions for x in kernel.loops) for kernel in ours.values())))
        cells.append(f"{last.stack} B" if last.stack else "-")
        cells.append(", ".join(f"{n} {name}" for name, n in last.main.widths.items()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _count(kernel: Kernel) -> str:
    """Instructions a sample, or of a turn of the main loop where that stores none."""
    loop = kernel.main
    if not kernel.loops:
        return "-"
    if kernel.samples:
        return f"{loop.instructions / kernel.samples:.1f} a sample"
    return f"{loop.instructions} a turn"


def main() -> None:
    """Print the counts, or rewrite the table of the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--kernel", default="", help="Only kernels whose name has this in it.")
    parser.add_argument("--json", action="store_true", help="Every innermost loop, as JSON.")
    parser.add_argument("--readme", action="store_true", help="Rewrite plugins/README.md.")
    options = parser.parse_args()
    found = [kernel for kernel in kernels(options.library) if options.kernel in kernel.name]
    if options.json:
        print(json.dumps([dataclasses.asdict(kernel) for kernel in found], indent=1))
        return
    made = table(found)
    print(made)
    if options.readme:
        head, rest = README.read_text().split(BEGIN)
        README.write_text(head + BEGIN + made + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
