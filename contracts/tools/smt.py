# Answers an SMT-LIB file of halmos with the first answer of several solvers that work on it side by side.
#
# yices is best at storage and at bits. cvc5 reads bit-vectors as integers, which makes products and divisions provable.
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# halmos asserts of each argument that it is its own lower bits; declared with that width, it needs no modulus anywhere.
LOW = r"\(\(_ extract (?P<top>\d+) 0\) (?P<name>[\w.]+)\)"
FITS = [
    re.compile(r"\(assert\s+\(let \(\((?P<low>\?x\d+) " + LOW + r"\)\)\s+\(let \(\((?P<all>\?x\d+) \(concat \(_ bv0 \d+\) (?P=low)\)\)\)\s+"
               r"\(= (?P=name) (?P=all)\)\)\)\)"),  # fmt: skip
    re.compile(r"\(assert\s+\(let \(\((?P<all>\?x\d+) \(concat \(_ bv0 \d+\) " + LOW + r"\)\)\)\s+\(= (?P=name) (?P=all)\)\)\)"),
]
# An assertion about storage or hashes; the arithmetic of a query is often contradictory without them, and much easier.
STORAGE = re.compile(r"\((select|store) |\b(storage|balance)_|\bf_(inv_)?sha3_")
MILLISECONDS_WITHOUT_STORAGE = 30_000
# The operands of a MULMOD: yices sees at once that two products are the same if it meets the operands of both in one order.
TERM = r"([^\s()]+|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))"
MULMOD = re.compile(rf"\(f_evm_bvmul_512\s+{TERM}\s+{TERM}\)")
# Most queries are yices' within it; the others start after it.
SECONDS_ALONE = 1

libc = ctypes.CDLL(None)


def die_with_parent():
    """Has Linux kill this process when the one that started it ends, also when that is killed."""
    PR_SET_PDEATHSIG = 1
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def narrowed(text):
    widths = {match["name"]: int(match["top"]) + 1 for fits in FITS for match in fits.finditer(text)}
    for name, width in widths.items():
        text = text.replace(
            f"(declare-fun {name} () (_ BitVec 256))",
            f"(declare-fun {name}.low () (_ BitVec {width}))\n"
            f"(define-fun {name} () (_ BitVec 256) (concat (_ bv0 {256 - width}) {name}.low))",
        )
    return text


def cvc5_says(text, milliseconds=0):
    import cvc5

    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("produce-models", "true")
    solver.setOption("solve-bv-as-int", "sum")
    solver.setOption("tlimit-per", str(milliseconds))
    commands = cvc5.InputParser(solver)
    commands.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "query")
    said = ""
    while not (command := commands.nextCommand()).isNull():
        said += command.invoke(solver, commands.getSymbolManager())
    # the model in halmos' names and widths again
    return re.sub(r"(\w+)\.low \(\) \(_ BitVec \d+\) #b([01]+)",
                  lambda m: f"{m[1]} () (_ BitVec 256) #x{int(m[2], 2):064x}", said)  # fmt: skip


def by_cvc5(text):
    text = narrowed(text)
    commands = re.split(r"\n(?=\()", text)
    # Fewer assertions that contradict each other are as good as all of them; a model of fewer is none.
    less = [c for c in commands if not STORAGE.search(c) or c.startswith("(declare") or c.startswith("(define")]
    if cvc5_says("\n".join(less), MILLISECONDS_WITHOUT_STORAGE).startswith("unsat\n"):
        return "unsat\n"
    return cvc5_says(text)


def start(command, text):
    asked, said = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
    asked.write(text)
    asked.seek(0)
    return subprocess.Popen(command, stdin=asked, stdout=said, stderr=said, preexec_fn=die_with_parent), said


def answer(said):
    """What a solver that has ended said, if that decides."""
    said.seek(0)
    text = said.read()
    return text if re.match("(un)?sat\n", text) else None


def main(path):
    die_with_parent()
    text = Path(path).read_text()
    yices = [Path(sys.executable).with_name("yices-smt2"), "--smt2-model-format"]
    process, said = start(yices, text)
    solvers = {process.pid: said}
    try:
        process.wait(SECONDS_ALONE)
    except subprocess.TimeoutExpired:
        pass
    else:
        if found := answer(solvers.pop(process.pid)):
            return found
    others = [([sys.executable, __file__, "--cvc5"], text)]
    if MULMOD.search(text):
        others.append((yices, MULMOD.sub(r"(f_evm_bvmul_512 \2 \1)", text)))
    for command, asked in others:
        process, said = start(command, asked)
        solvers[process.pid] = said
    while solvers:
        pid, _ = os.wait()
        if found := answer(solvers.pop(pid)):
            break
    for pid in solvers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found or "unknown\n"


print(by_cvc5(sys.stdin.read()) if sys.argv[1] == "--cvc5" else main(sys.argv[1]), end="")
