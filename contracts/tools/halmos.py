# Proves every check_ function of contracts/test/symbolic with halmos; fails on a counterexample and where nothing decides.
#
# A check_Wrong_ function is the test of the tools themselves: it must have a counterexample.
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".tidemark/halmos"
SOURCES = ROOT / "contracts/test/symbolic"
# All proofs together take under two minutes on two cores; the rest is for slower machines.
SECONDS_A_QUERY = 180
# What halmos' own command line would make forge compile; done before, it finds all compiled.
BUILD = ["forge", "build", "--ast", "--extra-output", "storageLayout", "metadata"]
# A branch whose condition z3 does not decide in this time is taken as possible, which only costs paths.
BRANCHING = "100ms"

# halmos finds the profile's contracts by FOUNDRY_PROFILE and keeps its own state in HOME.
ENV = dict(os.environ, FOUNDRY_PROFILE="halmos", HOME=str(WORK))


def run(command):
    done = subprocess.run(command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def prove(contract):
    """What halmos says of a contract, and which of its functions are not decided as they should be."""
    _, said = run(["halmos", "--forge-build-out", ".tidemark/halmos/out", "--no-status", "--loop", "4",
                   "--solver-command", f"{sys.executable} {ROOT}/contracts/tools/smt.py",
                   "--solver-timeout-assertion", f"{SECONDS_A_QUERY}s", "--solver-timeout-branching", BRANCHING,
                   "--contract", contract, *sys.argv[1:]])  # fmt: skip
    # A loop that was not unrolled to its end or a cut path proves nothing about the rest.
    incomplete = re.findall(r"^.*(?:loop unrolling bound|incomplete|unknown|potentially invalid).*$", said, re.M | re.I)
    return said, dict((name, verdict) for verdict, name in re.findall(r"^\[(\w+)\] (check_\w+)", said, re.M)), incomplete


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    status, said = run(BUILD)
    if status != 0:
        sys.exit(said)
    written = {}
    for file in sorted(SOURCES.glob("*.t.sol")):
        text = file.read_text()
        written[re.search(r"^contract (\w+Proofs)", text, re.M)[1]] = re.findall(r"function (check_\w+)", text)
    begun = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(written, pool.map(prove, written)))
    proved, failed = 0, []
    for contract, (said, verdicts, incomplete) in results.items():
        wrong = [name for name in written[contract]
                 if verdicts.get(name) != ("FAIL" if name.startswith("check_Wrong_") else "PASS")]  # fmt: skip
        if wrong or incomplete:
            print(said)
            failed += wrong or incomplete
        for name in written[contract]:
            if name not in wrong:
                print(f"{'refuted, as it should be:' if name.startswith('check_Wrong_') else 'proved'} {name}")
                proved += 1
    print(f"halmos: {proved} proofs, {len(failed)} failed, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)


main()
