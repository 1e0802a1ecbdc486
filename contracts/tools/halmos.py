# Proves every check_ function of contracts/test/symbolic with halmos and cvc5; fails on a counterexample and where nothing decides.
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS_A_QUERY = 60

# halmos finds the profile's contracts by FOUNDRY_PROFILE and keeps its own state in HOME.
env = dict(os.environ, FOUNDRY_PROFILE="halmos", HOME=str(ROOT / ".tidemark/halmos"))
(ROOT / ".tidemark/halmos").mkdir(parents=True, exist_ok=True)
command = ["halmos", "--forge-build-out", ".tidemark/halmos/out", "--no-status", "--loop", "4",
           "--solver-command", f"{sys.executable} {ROOT}/contracts/tools/smt.py",
           "--solver-timeout-assertion", f"{SECONDS_A_QUERY}s", *sys.argv[1:]]  # fmt: skip
done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
verdicts = re.findall(r"^\[(\w+)\] (check_\w+)", said, re.MULTILINE)
proved = [name for verdict, name in verdicts if verdict == "PASS"]
# A loop that was not unrolled to its end or a cut path proves nothing about the rest.
incomplete = re.findall(r"^.*(?:loop unrolling bound|incomplete|unknown).*$", said, re.MULTILINE | re.IGNORECASE)
if done.returncode != 0 or incomplete or len(proved) != len(verdicts) or not proved:
    print(said)
    sys.exit(f"halmos: {len(proved)} of {len(verdicts)} proved")
for name in proved:
    print(f"proved {name}")
print(f"halmos: {len(proved)} proofs, 0 failed")
