"""`python -m ohlora pick CASE NAME`: keeps a tested latent as a character, in data/characters.csv.

plots/test_vectors/passed.png shows the cases that passed, the best first.
"""

import argparse
from collections.abc import Sequence

from ohlora.characters import NAME, Character, add_character, vectors_mark
from ohlora.errors import UserError
from ohlora.files import load_npz, read_csv
from ohlora.stages.paths import CASE_ARRAYS, CASES, CHARACTERS, VECTORS


def run(arguments: Sequence[str]) -> None:
    """Adds the row."""
    parser = argparse.ArgumentParser("python -m ohlora pick", description=__doc__)
    parser.add_argument("case", type=int, help="number of a case of the last test")
    parser.add_argument("name", help="of the character: letters, digits, _ and -")
    parser.add_argument("--any", action="store_true", help="take a case that did not pass as well")
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.name):
        raise UserError(f"name {options.name!r}: allowed are 1 to 40 letters, digits, _ and -")
    table = read_csv(CASES, {"case": int, "group": str, "passed": int}, key="case").set_index("case")
    if options.case not in table.index:
        raise UserError(f"case {options.case}: {CASES} has cases {table.index.min()} to {table.index.max()}")
    if not table.loc[options.case, "passed"] and not options.any:
        passed = ", ".join(map(str, table.index[table["passed"] == 1])) or "none"
        raise UserError(f"case {options.case} did not pass (passed: {passed}); --any takes it all the same")
    tested = load_npz(CASE_ARRAYS, "vectors", z="nz", labels="nl")
    mark, z = str(tested["vectors"]), tested["z"]
    if len(z) != len(table) or mark != vectors_mark(VECTORS):
        raise UserError(f"{CASES}: not the test of the present vectors; run dvc repro test_vectors first")
    group = str(table.loc[options.case, "group"])
    row = table.index.get_loc(options.case)
    add_character(CHARACTERS, Character(options.name, group, mark, z[row], tested["labels"][row]))
    print(f"{CHARACTERS}: {options.name}, group {group}; dvc repro characters tests and draws it")
