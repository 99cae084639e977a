#!/usr/bin/env python3
"""Device code as C++ that a host compiler takes.
    rewrite.py FROM TO     launches, and variables in shared memory, become calls of device_code.hpp; arguments that all threads share, references

What it knows is what kernels/cuda writes: `kernel<arguments><<<grid, block, shared, stream>>>(…)` and `__shared__` declarations of plain
types. Anything else in shared memory, with a `<<<` or a `__grid_constant__` is an error."""

import re
import sys
from pathlib import Path

LAUNCH = re.compile(r"(\w+(?:<[^<>;{}]*>)?)\s*<<<(.*?)>>>\s*\(", re.S)
DYNAMIC = re.compile(r"\bextern\s+__shared__\s+(?P<type>[\w:]+)\s+(?P<name>\w+)\[\];")
STATIC = re.compile(r"\b__shared__\s+(?:__align__\((?P<align>[^()]*)\)\s+)?(?P<type>[\w:]+(?:<[^<>;]*>)?)\s+(?P<names>[^;=]+);")
GRID_CONSTANT = re.compile(r"\bconst\s+__grid_constant__\s+(?P<type>[\w:]+)\s+(?P<name>\w+)")


def split(text):
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts if part.strip()]


def end_of_call(text, begin):
    """Where the bracket closes that is open before `begin`."""
    depth = 1
    for at in range(begin, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    sys.exit("a launch without its end")


def launches(text):
    while match := LAUNCH.search(text):
        kernel, shape = match.group(1), split(match.group(2))
        end = end_of_call(text, match.end())
        arguments = "".join(", " + a for a in split(text[match.end() : end]))
        # Only kernels that ask for shared memory must be known by their address.
        address = "nullptr" if len(shape) < 3 or shape[2] == "0" else f"reinterpret_cast<const void*>({kernel})"
        call = f"emulated::launch({{{', '.join(shape)}}}, {address}, [=](const auto&... emulated_arguments) {{ {kernel}(emulated_arguments...); }}{arguments})"
        lines = text[match.start() : end].count("\n")
        text = text[: match.start()] + call + "\n" * lines + text[end + 1 :]
    return text


def static_variables(match):
    declared = []
    for variable in split(match["names"]):
        name, dimensions = re.fullmatch(r"(\w+)\s*((?:\[[^\[\]]*\])*)", variable, re.S).groups()
        declared.append(f"using emulated_{name} = {match['type']}{dimensions}; auto& {name} = emulated::shared<emulated_{name}, "
                        f"{match['align'] or 'alignof(' + match['type'] + ')'}>([] {{}});")
    return " ".join(declared)


def rewritten(text):
    text = re.sub(r"//[^\n]*", "", text)  # comments may have brackets of their own
    text = GRID_CONSTANT.sub(r"const \g<type>& \g<name>", text)
    text = DYNAMIC.sub(r"auto* \g<name> = static_cast<\g<type>*>(emulated::dynamic_memory());", text)
    text = STATIC.sub(static_variables, text)
    text = launches(text)
    for left in ("<<<", "__shared__", "__grid_constant__"):
        if left in text:
            sys.exit(f"not understood: {text[text.index(left) - 60 : text.index(left) + 60]}")
    return text


source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(f'#line 1 "{source}"\n' + rewritten(source.read_text()))
