# Runs slither over the contracts; fails on a high or medium finding without a reason in slither.json, and on a reason without a finding.
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REASONS = Path(__file__).with_suffix(".json")
WORK = ROOT / ".tidemark/slither"
OURS = ("contracts/src/", "contracts/interfaces/")


def run(*command):
    # Linking tests at run time makes forge compile rewritten sources, which slither cannot find.
    env = dict(os.environ, FOUNDRY_DYNAMIC_TEST_LINKING="false")
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def build():
    """Compiles the sources alone, all of them, so that one build-info holds one AST of each."""
    for old in (WORK / "build-info").glob("*.json"):
        old.unlink()
    status, said = run("forge", "build", "contracts/src", "--force", "--build-info", "--build-info-path", str(WORK / "build-info"),
                       "--out", str(WORK / "out"), "--cache-path", str(WORK / "cache"))  # fmt: skip
    if status != 0:
        sys.exit(f"forge build failed:\n{said}")


def place(element):
    """Contract and function of an element of a finding; "" for the function of a state variable or a contract."""
    if element["type"] == "contract":
        return element["name"], ""
    parent = element.get("type_specific_fields", {}).get("parent", {})
    if element["type"] == "node":
        return place(parent)
    return parent.get("name", ""), element["name"] if element["type"] == "function" else ""


def analyze():
    """The findings as (key, description), and how many contracts and detectors there were."""
    report = WORK / "report.json"
    report.unlink(missing_ok=True)
    _, said = run(sys.executable, "-m", "slither", ".", "--compile-force-framework", "foundry", "--foundry-ignore-compile",
                  "--foundry-out-directory", str(WORK / "out"), "--foundry-build-info-directory", str(WORK / "build-info"),
                  "--exclude-low", "--exclude-informational", "--exclude-optimization", "--json", str(report))  # fmt: skip
    counts = re.search(r"analyzed \((\d+) contracts with (\d+) detectors\)", said)
    if counts is None or not report.exists():
        sys.exit(f"slither failed:\n{said}")
    found = []
    for finding in json.loads(report.read_text())["results"].get("detectors", []):
        # OpenZeppelin answers for what lies in its own code only.
        ours = [e for e in finding["elements"] if e["source_mapping"]["filename_relative"].startswith(OURS)]
        if ours:
            found.append(((finding["check"], *place(ours[0])), finding["description"].strip()))
    # Slither skips a function that it cannot translate, and says so only here.
    for contract, function in re.findall(r"Impossible to generate IR for (\w+)\.(\w+) \((?:contracts/)", said):
        found.append((("not-analyzed", contract, function), f"slither could not read {contract}.{function}"))
    return found, int(counts[1]), int(counts[2])


def main():
    reasons = {}
    for row in json.loads(REASONS.read_text()):
        key = (row["check"], row["contract"], row["function"])
        if not row["reason"].strip() or key in reasons:
            sys.exit(f"{REASONS.name}: {key} needs one reason")
        reasons[key] = row["reason"]
    build()
    found, contracts, detectors = analyze()
    keys = {key for key, _ in found}
    unexplained = [(key, text) for key, text in found if key not in reasons]
    for key, text in unexplained:
        print(f"{key[0]} in {key[1]}.{key[2]}:\n  {text}")
    stale = [key for key in reasons if key not in keys]
    for key in stale:
        print(f"{REASONS.name}: nothing is found any more for {key}; remove the row")
    print(f"slither: {detectors} detectors, {contracts} contracts, {len(found)} findings, {len(found) - len(unexplained)} explained")
    sys.exit(1 if unexplained or stale else 0)


main()
