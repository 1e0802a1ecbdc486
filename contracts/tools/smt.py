# Answers an SMT-LIB file of halmos: with cvc5 and integers where 256-bit numbers are multiplied or divided, else with z3.
import re
import subprocess
import sys
from pathlib import Path

import cvc5

# halmos asserts of each argument that it is its own lower bits; declared with that width, it needs no modulus anywhere.
LOW = r"\(\(_ extract (?P<top>\d+) 0\) (?P<name>[\w.]+)\)"
FITS = [
    re.compile(r"\(assert\s+\(let \(\((?P<low>\?x\d+) " + LOW + r"\)\)\s+\(let \(\((?P<all>\?x\d+) \(concat \(_ bv0 \d+\) (?P=low)\)\)\)\s+"
               r"\(= (?P=name) (?P=all)\)\)\)\)"),  # fmt: skip
    re.compile(r"\(assert\s+\(let \(\((?P<all>\?x\d+) \(concat \(_ bv0 \d+\) " + LOW + r"\)\)\)\s+\(= (?P=name) (?P=all)\)\)\)"),
]


def narrowed(text):
    widths = {match["name"]: int(match["top"]) + 1 for fits in FITS for match in fits.finditer(text)}
    for name, width in widths.items():
        text = text.replace(
            f"(declare-fun {name} () (_ BitVec 256))",
            f"(declare-fun {name}.low () (_ BitVec {width}))\n"
            f"(define-fun {name} () (_ BitVec 256) (concat (_ bv0 {256 - width}) {name}.low))",
        )
    return text


def by_z3(path):
    sys.stdout.flush()
    sys.exit(subprocess.run([Path(sys.executable).with_name("z3"), path]).returncode)


def by_cvc5(path, text):
    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("produce-models", "true")
    solver.setOption("solve-bv-as-int", "sum")
    commands = cvc5.InputParser(solver)
    commands.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, narrowed(text), path)
    while not (command := commands.nextCommand()).isNull():
        said = command.invoke(solver, commands.getSymbolManager())
        # the model in halmos' names and widths again
        said = re.sub(r"(\w+)\.low \(\) \(_ BitVec \d+\) #b([01]+)",
                      lambda m: f"{m[1]} () (_ BitVec 256) #x{int(m[2], 2):064x}", said)
        print(said, end="", flush=True)


def main():
    path = sys.argv[1]
    with open(path) as file:
        text = file.read()
    # Bit-vectors read as integers make products provable; shifts and masks are easier as the bits that they are.
    # A multiplication by a constant alone is how z3 writes a subtraction.
    if re.search(r"\(bv(mul (?!#|\(_ bv)|[su]div|[su]rem)", text):
        by_cvc5(path, text)
    else:
        by_z3(path)


main()
