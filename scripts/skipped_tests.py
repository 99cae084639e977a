#!/usr/bin/env python3
"""skipped_tests.py RESULTS…: the tests that were skipped, one a line with the reason, of what ctest --output-junit wrote."""
import re
import sys
import xml.etree.ElementTree as xml


def reason(output):
    """What follows "Skipped" of GoogleTest or "skipped: " of a program; else the last line."""
    said = re.search(r": Skipped\n(.+)|^skipped: (.+)", output, re.M)
    lines = output.strip().splitlines()
    return next(filter(None, said.groups())) if said else lines[-1] if lines else "no reason given"


for results in sys.argv[1:]:
    for test in xml.parse(results).iter("testcase"):
        if test.find("skipped") is not None:
            print(f"{test.get('name')}: {reason(test.findtext('system-out') or '')}")
