#!/usr/bin/env node
// Runs the tests under `forge coverage`; fails where a line, function or branch of contracts/src is neither covered nor excepted in coverage.json.
//
// forge counts both outcomes of a require or an if-else, but of an if without else only the taken one. The other outcome is
// covered where the condition ran more often than its branch. Ternaries, && and || are not branches to forge.
"use strict";
const { spawnSync } = require("child_process");
const fs = require("fs");
const path = require("path");

const ROOT = path.join(__dirname, "../..");
const WORK = path.join(ROOT, ".tidemark/coverage");
const REPORT = path.join(WORK, "lcov.info");
const SOURCES = "contracts/src/";
// Gas is not that of the real code here, and campaigns of random calls would only cost time.
const ARGUMENTS = ["--no-match-path", "contracts/test/Gas*", "--no-match-test", "^invariant"];

function runTests() {
  fs.mkdirSync(WORK, { recursive: true });
  fs.rmSync(REPORT, { force: true });
  const forge = path.join(ROOT, "node_modules/@foundry-rs/forge-linux-amd64/bin/forge");
  const places = ["--out", path.join(WORK, "out"), "--cache-path", path.join(WORK, "cache")];
  const done = spawnSync(forge, ["coverage", "--report", "lcov", "--report-file", REPORT, ...places, ...ARGUMENTS], {
    cwd: ROOT,
    env: { ...process.env, FOUNDRY_PROFILE: "coverage" },
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  const said = `${done.stdout}${done.stderr}`;
  if (done.status !== 0 || !fs.existsSync(REPORT)) {
    console.error(said);
    if (/stack too deep/i.test(said)) {
      console.error("forge coverage compiles without via_ir: move what is too deep (often a long emit) into a private function");
    }
    process.exit(1);
  }
}

/** Per source file: hits of lines and functions, and of the branches [line, id, hits of each outcome]. */
function parse(lcov) {
  const files = new Map();
  let file;
  for (const line of lcov.split("\n")) {
    const [kind, rest = ""] = line.split(/:(.*)/s);
    const field = rest.split(",");
    if (kind === "SF") {
      file = { lines: new Map(), functions: new Map(), functionLines: new Map(), branches: new Map() };
      if (rest.startsWith(SOURCES)) files.set(rest, file);
    } else if (kind === "DA") {
      file.lines.set(Number(field[0]), Number(field[1]));
    } else if (kind === "FN") {
      file.functionLines.set(field[1], Number(field[0]));
    } else if (kind === "FNDA") {
      file.functions.set(field[1], Number(field[0]));
    } else if (kind === "BRDA") {
      const branch = file.branches.get(field[1]) ?? { line: Number(field[0]), hits: [] };
      branch.hits.push(field[3] === "-" ? 0 : Number(field[3]));
      file.branches.set(field[1], branch);
    }
  }
  return files;
}

/** Hits of both outcomes of a branch of which forge counts one. */
function otherOutcome(code, line, hits, lines) {
  if (!/\bif \(/.test(code)) return [hits];
  const tested = lines.get(line) ?? 0;
  // forge has no place of its own for `continue`, and counts the test instead: the statement behind it tells.
  if (code.endsWith("continue;")) {
    const behind = lines.get(Math.min(...[...lines.keys()].filter((other) => other > line))) ?? 0;
    return [tested - behind, behind];
  }
  return [hits, tested - hits];
}

/** What is not covered: [{file, line, what}]; and how many items there are. */
function examine(files) {
  const missed = [];
  const total = { lines: 0, functions: 0, branches: 0 };
  for (const [file, { lines, functions, functionLines, branches }] of files) {
    const code = fs.readFileSync(path.join(ROOT, file), "utf8").split("\n");
    for (const [line, hits] of lines) {
      total.lines += 1;
      if (hits === 0) missed.push({ file, line, what: "line" });
    }
    for (const [name, hits] of functions) {
      total.functions += 1;
      if (hits === 0) missed.push({ file, line: functionLines.get(name), what: "function" });
    }
    for (const { line, hits } of branches.values()) {
      const outcomes = hits.length > 1 ? hits : otherOutcome(code[line - 1], line, hits[0], lines);
      total.branches += outcomes.length;
      outcomes.forEach((count) => count > 0 || missed.push({ file, line, what: "branch" }));
    }
  }
  return { missed, total };
}

function main() {
  runTests();
  const files = parse(fs.readFileSync(REPORT, "utf8"));
  if (files.size === 0) throw new Error(`${REPORT} names no file of ${SOURCES}`);
  const { missed, total } = examine(files);
  const exceptions = JSON.parse(fs.readFileSync(path.join(__dirname, "coverage.json"), "utf8"));
  const used = new Set();
  let unexcepted = 0;
  for (const { file, line, what } of missed) {
    const code = fs.readFileSync(path.join(ROOT, file), "utf8").split("\n")[line - 1].trim();
    const exception = exceptions.find((e) => e.file === file && e.code === code && e.what.includes(what) && e.reason);
    if (exception) {
      used.add(exception);
    } else {
      console.error(`${file}:${line}: ${what} not covered: ${code}`);
      unexcepted += 1;
    }
  }
  const stale = exceptions.filter((exception) => !used.has(exception));
  for (const { file, code } of stale) console.error(`coverage.json: covered or gone, remove the row: ${file}: ${code}`);
  const counts = Object.entries(total).map(([what, count]) => `${count} ${what}`).join(", ");
  console.log(`coverage of ${SOURCES}: ${counts}; ${missed.length} not covered, ${missed.length - unexcepted} of them excepted`);
  process.exit(unexcepted + stale.length === 0 ? 0 : 1);
}

main();
