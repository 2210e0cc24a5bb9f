"""Each of Xen's security advisories on these operations has a test named after it, somewhere.

They are on xenbits.xen.org/xsa: exchange (29, 212), extent orders (31), calls that run too long (45, 150, 380),
memory lost with a domain (149), pages that move between domains (217), unmaps (218, 228) and counts (224, 230) of
grants, error paths (235, 316), pages stolen while in use (287), foreign mappings without a bound (300),
continuations (318), frames that stay reachable (379, 387), limits (385), changes of 2 MiB mappings (388, 389).
And those on the store: watches that tell what may not be read (115), permissions inherited from the dead (322), lengths of
paths (323), guests that crash it (324, 414, 418), nodes that outlive their domain or parent (325, 415), memory and nodes
without bound (326, 416, 419, 421), a domid that was another's (417).
"""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ADVISORIES = {29, 31, 45, 149, 150, 212, 217, 218, 224, 228, 230, 235, 287, 300, 316, 318, 379, 380, 385, 387, 388, 389}
OF_THE_STORE = {115, 322, 323, 324, 325, 326, 414, 415, 416, 417, 418, 419, 421}


def test_every_advisory_has_a_test_named_after_it() -> None:
    """`test_xsa_45_150_and_380_...` stands for three of them."""
    named = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                numbers = re.match(r"test_xsa((?:_(?:\d+|and))+)", node.name)
                named |= {int(number) for number in re.findall(r"\d+", numbers[1])} if numbers else set()

    assert named == ADVISORIES | OF_THE_STORE
