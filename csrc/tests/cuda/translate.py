"""CUDA C++ as C++ for the emulated device, line by line: ``translate.py SOURCE FOLDER``.

    kernel<...><<<grid, block, bytes, stream>>>(arguments)    a call of emulation::launcher
    __shared__ T x[n];    extern __shared__ T x[];            references to emulation::shared
    __global__ void kernel(...) { ... }                       enters by emulation::enter

Nothing else is changed, and no line moves, so that compilers and reports name the source's lines.
"""

import os
import re
import sys
from pathlib import Path


def end_of(text, start):
    """Index behind the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i + 1
    raise ValueError(f"no bracket closes {text[start : start + 40]!r}")


def start_of_name(text, end):
    """Index of the (template) name that ends before ``end``."""
    i = len(text[:end].rstrip())
    if text[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            depth += (text[i] == ">") - (text[i] == "<")
            if depth == 0:
                break
    while text[i - 1].isalnum() or text[i - 1] in "_:":
        i -= 1
    return i


def translate_launches(text):
    """The text with every launch as a call."""
    while (at := text.find("<<<")) >= 0:
        end = text.index(">>>", at)
        name = start_of_name(text, at)
        kernel = " ".join(text[name:at].split())
        lines = "\n" * text[name:at].count("\n")
        call = f"::emulation::launcher([](auto... a) {{ {kernel}(a...); }}, "
        call += f"::emulation::Configuration({lines}"
        text = text[:name] + call + text[at + 3 : end] + "))" + text[end + 3 :]
    return text


def translate_shared(text):
    """The text with every variable in shared memory as a reference."""
    text = re.sub(
        r"extern\s+__shared__\s+([\w:<> ]+?)\s+(\w+)\[\];",
        r'\1* \2 = ::emulation::dynamic_shared<\1>("\2");',
        text,
    )

    def reference(found):
        align, kind, name, bounds = found.groups()
        variable = f"(&{name}){bounds}" if bounds else f"&{name}"
        extra = f", {align}" if align else ""
        return f'{kind} {variable} = ::emulation::shared<{kind}{bounds}>("{name}", [] {{}}{extra});'

    text = re.sub(
        r"__shared__\s+(?:(?:alignas|__align__)\((\d+)\)\s+)?([\w:<>, ]+?)\s+(\w+)"
        r"((?:\[[^\]]*\])*);",
        reference,
        text,
    )
    if left := re.search(r"^[^/\n]*__shared__.*", text, re.MULTILINE):
        raise ValueError(f"a variable in shared memory that is not understood: {left.group(0)}")
    return text


def translate_kernels(text):
    """The text with every kernel entering, and the names of the kernels."""
    names = []
    found = 0
    while (found := text.find("__global__", found)) >= 0:
        bounds = ""
        i = found + len("__global__")
        head = re.compile(r"\s*void\s*").match(text, i)
        i = head.end()
        if text.startswith("__launch_bounds__", i):
            opens = text.index("(", i)
            i = end_of(text, opens)
            bounds = " ".join(text[opens + 1 : i - 1].split())
        name = re.compile(r"\s*(\w+)\s*").match(text, i)
        body = re.compile(r"\s*").match(text, end_of(text, name.end())).end()
        found = body
        if text[body] != "{":
            continue  # a declaration
        names.append(name.group(1))
        enter = f" struct Kernel {{}}; ::emulation::enter<Kernel>({bounds});"
        text = text[: body + 1] + enter + text[body + 1 :]
    return text, names


def translated(path):
    """The whole file, as C++."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    text, names = translate_kernels(translate_shared(translate_launches(text)))
    text = f'#line 1 "{Path(path).resolve()}"\n{text}'
    if names:
        listed = ", ".join(f'"{name}"' for name in names)
        variable = "kernels_of_" + re.sub(r"\W", "_", path)
        text += f'static const ::emulation::Declared {variable}{{"{path}", {{{listed}}}}};\n'
    return text


def main(source, folder):
    """Translates a .cu, and the .cuh files that it includes, to the same places below a folder."""
    waiting, done = [source], set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        text = translated(path)
        waiting += re.findall(r'#include "([\w/]+\.cuh)"', text)
        target = Path(folder) / (path + (".cpp" if path.endswith(".cu") else ""))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".cuh" and target.exists() and target.read_text() == text:
            continue  # compilers of other files may be reading it
        new = target.with_suffix(f".{os.getpid()}")
        new.write_text(text)
        new.replace(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
