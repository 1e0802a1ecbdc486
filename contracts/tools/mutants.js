#!/usr/bin/env node
// Breaks each property of contracts/PROPERTIES.md on purpose (contracts/test/mutants.json) and expects the tests that it names to fail.
//
//   mutants.js [--check] [--only P3] [--first] [--jobs 2] [--root FOLDER] [--keep]
//
// --check compares page, mutants and tests without compiling anything; --only takes a regular expression of property or file,
// --first the first mutant of each property.
// A mutant is compiled alone, by a solc that stays loaded, with the optimizer's steps left out, and its bytecode takes the place of the
// original's in a copy of contracts/out, where tests find it: contracts/test/Deploy.sol reads it from there. Before, all
// mutated files are put there unmutated by the same way, and every named test has to pass; so a failure later is due to the mutation.
// A mutant that survives this (a library compiled into a test, for one) is built once more by forge with the tests around it.
"use strict";
const { execFile, execFileSync, fork, spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { isDeepStrictEqual, parseArgs } = require("node:util");

const PAGE = "contracts/PROPERTIES.md";
const MUTANTS = "contracts/test/mutants.json";
const SRC = "contracts/src";
const TESTS = "contracts/test";
const OUT = "contracts/out";
const CACHE = "contracts/cache";
const TEST_MS_MAX = 300_000;
const BUILD_MS_MAX = 1_800_000;
// the same random numbers each time; a failure is not shrunk, nor replayed for another mutant
const FORGE_ENV = {
  FOUNDRY_LINT_LINT_ON_BUILD: "false",
  FOUNDRY_FUZZ_SEED: "0x7469646d61726b",
  FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT: "0",
};

function fail(error) {
  console.error(error.message ?? error);
  process.exitCode = 2;
}

/* PAGE, MUTANTS, TESTS */

/** Mutants of the data file, each with number, line and the tests that it names; faults in words. */
function readMutants(root, index) {
  const faults = [];
  const mutants = JSON.parse(fs.readFileSync(path.join(root, MUTANTS), "utf8"));
  mutants.forEach((mutant, i) => {
    const fault = (text) => faults.push(`${MUTANTS}, mutant ${i + 1} (${mutant.property} ${mutant.file}): ${text}`);
    for (const key of ["property", "file", "find", "replace", "test"]) {
      if (typeof mutant[key] !== "string") return fault(`${key} is missing`);
    }
    const unknown = Object.keys(mutant).filter((key) => !["property", "file", "find", "replace", "test", "rebuild"].includes(key));
    if (unknown.length > 0) fault(`unknown key ${unknown.join(", ")}`);
    const file = path.join(root, SRC, mutant.file);
    if (!fs.existsSync(file)) return fault(`no such file in ${SRC}`);
    const parts = fs.readFileSync(file, "utf8").split(mutant.find);
    if (mutant.find === "" || parts.length !== 2) fault(`find occurs ${parts.length - 1} times, expected once: ${mutant.find}`);
    if (mutant.find === mutant.replace) fault("find and replace are the same");
    mutant.where = `${mutant.file}:${parts[0].split("\n").length}`;
    mutant.tests = testsMatching(index, mutant.test).filter(({ name }) => /^(test|invariant)/.test(name));
    if (mutant.tests.length === 0) fault(`no test that forge runs is named ${mutant.test}`);
  });
  return { mutants, faults };
}

/** Every test function of every contract in contracts/test that can be deployed, inherited ones included. */
function indexTests(root) {
  const contracts = new Map();
  for (const file of fs.readdirSync(path.join(root, TESTS), { recursive: true })) {
    if (!file.endsWith(".sol")) continue;
    const text = fs.readFileSync(path.join(root, TESTS, file), "utf8").replace(/\/\*[^]*?\*\/|\/\/[^\n]*/g, "");
    let current;
    const pattern = /(?:\b(abstract)\s+)?\bcontract\s+(\w+)(?:\s+is\s+([^{]+))?\s*\{|\bfunction\s+((?:test|invariant|check)\w*)\s*\(/g;
    for (const [, abstract, contract, bases, name] of text.matchAll(pattern)) {
      if (contract) {
        current = { abstract, own: [], bases: (bases ?? "").split(",").map((base) => base.trim().replace(/\(.*/s, "")) };
        contracts.set(contract, current);
      } else {
        current?.own.push(name);
      }
    }
  }
  const namesOf = (contract) => {
    const { own, bases } = contracts.get(contract) ?? { own: [], bases: [] };
    return [...new Set([...own, ...bases.flatMap(namesOf)])];
  };
  return [...contracts]
    .filter(([, { abstract }]) => !abstract)
    .flatMap(([contract]) => namesOf(contract).map((name) => ({ contract, name })));
}

/** Tests of "Contract.test", "Contract" or "test", where each part may be a regular expression. */
function testsMatching(index, text) {
  const whole = (part) => new RegExp(`^(?:${part})$`);
  const split = /^(\w+)\.(.+)$/s.exec(text);
  if (split) {
    const [contract, name] = split.slice(1).map(whole);
    return index.filter((test) => contract.test(test.contract) && name.test(test.name));
  }
  const either = whole(text);
  return index.filter((test) => either.test(test.contract) || either.test(test.name));
}

/** Faults of the page: a row without tests, a test that is not there, a property without a mutant that one of its tests catches. */
function checkPage(root, index, mutants) {
  const file = path.join(root, PAGE);
  if (!fs.existsSync(file)) return [];
  const faults = [];
  const rows = new Map();
  fs.readFileSync(file, "utf8").split("\n").forEach((line, i) => {
    const id = /^\|[\s*`]*(?:<a [^>]*><\/a>)?\[?(P\d+)\b/.exec(line)?.[1];
    if (!id) return;
    const fault = (text) => faults.push(`${PAGE}:${i + 1}: ${text}`);
    if (rows.has(id)) fault(`${id} is there twice`);
    const named = [...line.matchAll(/`((?:\w+\.)?(?:test|invariant|check)\w*_\w+|\w+Test)(?:\([^`]*\))?`/g)].map(([, name]) => name);
    if (named.length === 0) fault(`${id} names no test`);
    const tests = named.flatMap((name) => {
      const found = testsMatching(index, name);
      if (found.length === 0) fault(`${id} names ${name}, which is not in ${TESTS}`);
      return found;
    });
    rows.set(id, tests);
    const own = mutants.filter(({ property }) => property === id);
    if (own.length === 0) fault(`${id} has no mutant in ${MUTANTS}`);
    for (const { where, test, tests: catching = [] } of own) {
      if (!catching.some((one) => tests.some((other) => isDeepStrictEqual(one, other)))) {
        fault(`${id} does not name the test of its mutant at ${where}: ${test}`);
      }
    }
  });
  for (const property of new Set(mutants.map(({ property }) => property))) {
    if (!rows.has(property)) faults.push(`${MUTANTS}: ${property} is not in ${PAGE}`);
  }
  return faults;
}

/* CAMPAIGN */

async function main() {
  const { values: options } = parseArgs({
    options: {
      check: { type: "boolean" },
      only: { type: "string" },
      first: { type: "boolean" },
      jobs: { type: "string", default: String(Math.min(2, os.availableParallelism())) },
      root: { type: "string", default: path.join(__dirname, "../..") },
      keep: { type: "boolean" },
    },
  });
  const root = path.resolve(options.root);
  const index = indexTests(root);
  const { mutants: all, faults } = readMutants(root, index);
  faults.push(...checkPage(root, index, all));
  if (faults.length > 0) throw new Error(faults.join("\n"));
  const only = new RegExp(`^(?:${options.only ?? ".*"})$`);
  const mutants = all
    .filter(({ property, file }) => only.test(property) || only.test(file))
    .filter(({ property }, i, chosen) => !options.first || chosen.findIndex((one) => one.property === property) === i);
  if (mutants.length === 0) throw new Error("no mutants");
  if (options.check) {
    const page = fs.existsSync(path.join(root, PAGE)) ? `; each property of ${PAGE} has one` : `; there is no ${PAGE} to compare them with`;
    return console.log(`${mutants.length} mutants of ${new Set(mutants.map(({ property }) => property)).size} properties${page}`);
  }

  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "tidemark-mutants-"));
  const workers = [];
  const clean = () => {
    for (const one of workers) one.process.kill("SIGKILL");
    if (options.keep) console.log(`kept ${folder}`);
    else fs.rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  };
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => (clean(), process.exit(130)));
  try {
    const count = Math.max(1, Math.min(Number(options.jobs), mutants.length));
    process.exitCode = await campaign(root, folder, mutants, workers, count);
  } finally {
    clean();
  }
}

async function campaign(root, folder, mutants, workers, jobs) {
  const begun = Date.now();
  const seconds = () => `${((Date.now() - begun) / 1000).toFixed(1)} s`;
  const original = path.join(folder, "original");
  copyProject(root, original);
  const tests = unique(mutants.flatMap((mutant) => mutant.tests));
  const targets = [...new Set(mutants.flatMap(({ file }) => affected(original, configOf(original), file)))];

  for (let i = 0; i < jobs; ++i) workers.push(startWorker(path.join(folder, `worker-${i}`)));
  // forge builds what is not built yet, while the workers compile unmutated what mutants will change
  const built = forgeAsync(original, ["build"]);
  const compiled = await each(workers, targets, (one, target) => one.ask({ do: "original", folder: original, target }));
  const build = await built;
  if (build.status !== 0) throw new Error(`forge build failed:\n${build.stdout}${build.stderr}`);
  for (const { error, artifacts } of compiled) {
    if (error) throw new Error(error);
    for (const [file, code] of Object.entries(artifacts)) writeArtifact(original, file, code);
  }
  const before = verdictOf(await forgeAsync(original, testArguments(tests)), tests);
  if (before.verdict !== "survived") throw new Error(`a test fails before anything is mutated: ${before.by ?? before.detail}`);
  console.log(`${tests.length} tests pass unmutated after ${seconds()}; ${mutants.length} mutants, ${jobs} at a time`);

  for (const one of workers) copyFolder(original, one.folder);
  const results = [];
  const bar = progressBar(mutants.length);
  await each(workers, mutants, async (one, mutant) => {
    bar.start(mutant);
    const result = { mutant, ...(await one.ask({ do: "mutant", folder: one.folder, mutant })) };
    results.push(result);
    bar.end(mutant, line(result));
  });
  bar.close();

  const number = (verdict) => results.filter((result) => result.verdict === verdict).length;
  const faulty = number("faulty");
  for (const { verdict, mutant, detail } of results) {
    if (verdict === "killed") continue;
    console.log(`\n${mutant.property} ${mutant.where} ${verdict}${detail ? `: ${detail}` : ""}\n- ${mutant.find}\n+ ${mutant.replace}\n  ${mutant.test}`);
  }
  console.log(`${mutants.length} mutants, ${number("killed")} killed, ${number("survived")} survived${faulty ? `, ${faulty} faulty` : ""}, in ${seconds()}`);
  return number("killed") === mutants.length ? 0 : 1;
}

const line = ({ mutant, verdict, by, reason, ms, rebuilt }) => {
  const how = `in ${(ms / 1000).toFixed(1)} s${rebuilt ? " with its tests rebuilt" : ""}`;
  const said = reason ? ` (${reason.length > 60 ? `${reason.slice(0, 59)}…` : reason})` : "";
  return `${mutant.property} ${mutant.where} … ${verdict} ${how}${by ? ` by ${by}${said}` : ""}`;
};

/** One line a mutant; on a terminal also a bar below them. */
function progressBar(total) {
  const WIDTH = 24;
  const running = new Set();
  let done = 0;
  const tty = process.stdout.isTTY;
  const draw = () => {
    if (!tty) return;
    const full = Math.round((WIDTH * done) / total);
    const text = `[${"#".repeat(full)}${"-".repeat(WIDTH - full)}] ${done}/${total}  ${[...running].map(({ property }) => property).join(" ")}`;
    process.stdout.write(`\r\x1b[K${text.slice(0, (process.stdout.columns ?? 80) - 1)}`);
  };
  return {
    start: (mutant) => (running.add(mutant), draw()),
    end: (mutant, text) => {
      running.delete(mutant);
      done += 1;
      process.stdout.write(`${tty ? "\r\x1b[K" : ""}[${done}/${total}] ${text}\n`);
      draw();
    },
    close: () => tty && process.stdout.write("\r\x1b[K"),
  };
}

/** What is needed to build and test, node_modules by a link. */
function copyProject(root, to) {
  fs.mkdirSync(to, { recursive: true });
  fs.cpSync(path.join(root, "contracts"), path.join(to, "contracts"), { recursive: true, preserveTimestamps: true });
  fs.copyFileSync(path.join(root, "foundry.toml"), path.join(to, "foundry.toml"));
  fs.symlinkSync(fs.realpathSync(path.join(root, "node_modules")), path.join(to, "node_modules"));
  for (const { path: readable } of configOf(to).fs_permissions) {
    const [source, target] = [path.join(root, readable), path.join(to, readable)];
    if (fs.existsSync(source) && !fs.existsSync(target)) fs.cpSync(source, target, { recursive: true });
  }
}

function copyFolder(from, to) {
  fs.rmSync(to, { recursive: true, force: true });
  fs.cpSync(from, to, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
}

/** Gives each item to the first worker that is free; results in the order of the items. */
async function each(workers, items, run) {
  const results = [];
  let next = 0;
  await Promise.all(
    workers.map(async (one) => {
      while (next < items.length) {
        const i = next++;
        results[i] = await run(one, items[i]);
      }
    }),
  );
  return results;
}

function startWorker(folder) {
  const child = fork(__filename, [], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const ask = (question) =>
    new Promise((resolve, reject) => {
      const ended = (code) => reject(new Error(`a worker ended with ${code}`));
      child.once("exit", ended);
      child.once("message", (answer) => {
        child.off("exit", ended);
        resolve(answer);
      });
      child.send(question);
    });
  return { folder, process: child, ask };
}

/* FORGE */

// the binary itself, because the script around it in npm's package ends with 0 whatever happens
const forgePath = (folder) => {
  const name = `forge-${process.platform}-${process.arch === "arm64" ? "arm64" : "amd64"}`;
  return path.join(folder, "node_modules/@foundry-rs", name, "bin/forge");
};
const forgeEnv = () => ({ ...Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^(FOUNDRY|DAPP)_/.test(key))), ...FORGE_ENV });

function configOf(folder) {
  const options = { cwd: folder, env: forgeEnv(), encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] };
  return JSON.parse(execFileSync(forgePath(folder), ["config", "--json"], options));
}

/** Runs forge without holding up the answers of workers. */
function forgeAsync(folder, args) {
  return new Promise((resolve, reject) => {
    const child = execFile(
      forgePath(folder),
      args,
      { cwd: folder, env: forgeEnv(), encoding: "utf8", maxBuffer: 1 << 28, timeout: BUILD_MS_MAX },
      (error, stdout, stderr) => (error && child.exitCode === null ? reject(error) : resolve({ status: child.exitCode, stdout, stderr })),
    );
  });
}

function testArguments(tests) {
  const names = (key) => `^(${[...new Set(tests.map((test) => test[key]))].join("|")})`;
  return ["test", "--json", "--code-size-limit", "1000000", "--match-contract", `${names("contract")}$`, "--match-test", `${names("name")}(\\(|$)`];
}

const unique = (tests) => [...new Map(tests.map((test) => [`${test.contract}.${test.name}`, test])).values()];

/** Killed where one of the tests fails; faulty where one of them did not run, or not even setUp came through. */
function verdictOf({ status, stdout, stderr, error }, tests) {
  if (error) return { verdict: "faulty", detail: String(error) };
  const json = stdout.split("\n").find((text) => text.startsWith("{"));
  if (json === undefined) return { verdict: "faulty", detail: `forge ended with ${status} and no results: ${(stdout + stderr).trim().slice(0, 2000)}` };
  const results = new Map();
  for (const [suite, { test_results: found }] of Object.entries(JSON.parse(json))) {
    const contract = suite.split(":").pop();
    for (const [signature, result] of Object.entries(found)) results.set(`${contract}.${signature.replace(/\(.*/, "")}`, result);
  }
  let killer;
  for (const { contract, name } of tests) {
    const setUp = results.get(`${contract}.setUp`);
    if (setUp?.status === "Failure") return { verdict: "faulty", detail: `${contract}.setUp() fails (${setUp.reason}), so no test was run` };
    const result = results.get(`${contract}.${name}`);
    if (!["Success", "Failure"].includes(result?.status)) return { verdict: "faulty", detail: `${contract}.${name} was not run` };
    if (result.status === "Failure") killer ??= { verdict: "killed", by: `${contract}.${name}`, reason: result.reason ?? "" };
  }
  return killer ?? { verdict: "survived" };
}

/* WORKER */

/** Compiles what it is asked for and tries it; keeps solc loaded. */
function worker() {
  let solc;
  let config;
  process.on("message", (question) => {
    solc ??= require(require.resolve("solc", { paths: [question.folder] }));
    config ??= configOf(question.folder);
    let answer;
    try {
      if (question.do === "original") answer = compile(solc, config, question.folder, [question.target]);
      else answer = tryMutant(question.folder, question.mutant);
    } catch (error) {
      answer = { verdict: "faulty", error: error.stack, detail: error.stack, ms: 0 };
    }
    process.send(answer);
  });
  process.on("disconnect", () => process.exit());

  function tryMutant(folder, mutant) {
    const begun = Date.now();
    const done = (result) => ({ ...result, ms: Date.now() - begun });
    const source = path.join(folder, SRC, mutant.file);
    const text = fs.readFileSync(source, "utf8");
    const mutated = text.split(mutant.find).join(mutant.replace);
    const { error, artifacts } = compile(solc, config, folder, affected(folder, config, mutant.file), { [path.posix.join(SRC, mutant.file)]: mutated });
    if (error) return done({ verdict: "faulty", detail: error });

    const replaced = {};
    for (const [file, code] of Object.entries(artifacts)) {
      const before = JSON.parse(fs.readFileSync(path.join(folder, file), "utf8"));
      if (before.bytecode.object !== code.bytecode.object) {
        replaced[file] = before;
        writeArtifact(folder, file, code);
      }
    }
    // code that is the same everywhere can only differ inside tests
    if (!mutant.rebuild && Object.keys(replaced).length > 0) {
      const result = test(folder, mutant.tests, TEST_MS_MAX);
      for (const [file, before] of Object.entries(replaced)) writeArtifact(folder, file, before);
      if (result.verdict !== "survived") return done(result);
    }

    const saved = path.join(folder, "saved");
    for (const name of [OUT, CACHE]) copyFolder(path.join(folder, name), path.join(saved, name));
    fs.writeFileSync(source, mutated);
    const result = test(folder, mutant.tests, BUILD_MS_MAX);
    fs.writeFileSync(source, text);
    for (const name of [OUT, CACHE]) copyFolder(path.join(saved, name), path.join(folder, name));
    return done({ ...result, rebuilt: true });
  }

  function test(folder, tests, timeout) {
    // counterexamples of the mutant before
    fs.rmSync(path.join(folder, "cache"), { recursive: true, force: true });
    const options = { cwd: folder, env: forgeEnv(), encoding: "utf8", maxBuffer: 1 << 28, timeout };
    return verdictOf(spawnSync(forgePath(folder), testArguments(tests), options), tests);
  }

  /** Bytecode of each deployable contract of these sources, by its artifact's path. */
  function compile(solc, config, folder, targets, texts = {}) {
    const sources = {};
    const outputs = {};
    for (const target of targets) {
      for (const [name, content] of importsOf(folder, config, target)) {
        sources[name] = { content: texts[name] ?? content };
        // asked for nothing, solc would order it after what it is imported by
        outputs[name] ??= { "*": ["abi"] };
      }
      outputs[target] = { "*": ["evm.bytecode.object", "evm.bytecode.linkReferences", "evm.deployedBytecode"] };
    }
    const input = {
      language: "Solidity",
      sources,
      settings: {
        remappings: config.remappings,
        evmVersion: config.evm_version,
        viaIR: config.via_ir,
        metadata: { bytecodeHash: config.bytecode_hash, appendCBOR: config.cbor_metadata },
        // the yul optimizer only to keep the stack from getting too deep
        optimizer: { enabled: true, runs: 1, details: { yul: true, yulDetails: { stackAllocation: true, optimizerSteps: "u:" } } },
        outputSelection: outputs,
      },
    };
    const output = JSON.parse(solc.compile(JSON.stringify(input)));
    const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
    if (errors.length > 0) return { error: `does not compile:\n${errors.map(({ formattedMessage }) => formattedMessage).join("")}` };

    const artifacts = {};
    for (const target of targets) {
      for (const [contract, { evm }] of Object.entries(output.contracts[target] ?? {})) {
        if (!evm?.bytecode?.object) continue;
        const hex = (code) => ({ ...code, object: `0x${code.object}` });
        const { object, linkReferences, immutableReferences } = evm.deployedBytecode;
        artifacts[path.posix.join(OUT, path.posix.basename(target), `${contract}.json`)] = {
          bytecode: hex({ object: evm.bytecode.object, linkReferences: evm.bytecode.linkReferences }),
          deployedBytecode: hex({ object, linkReferences, immutableReferences }),
        };
      }
    }
    return { artifacts };
  }
}

/** The sources that `file` is compiled into. */
function affected(folder, config, file) {
  const all = fs.readdirSync(path.join(folder, SRC), { recursive: true }).filter((name) => name.endsWith(".sol"));
  return all.map((name) => path.posix.join(SRC, name)).filter((name) => importsOf(folder, config, name).has(path.posix.join(SRC, file)));
}

/** Text of a source and of whatever it imports, by path. */
function importsOf(folder, config, file, found = new Map()) {
  if (found.has(file)) return found;
  const text = fs.readFileSync(path.join(folder, file), "utf8");
  found.set(file, text);
  for (const [, name] of text.matchAll(/^\s*import\s[^;]*?["']([^"']+)["']/gm)) {
    let target = path.posix.join(path.posix.dirname(file), name);
    if (!name.startsWith(".")) {
      const remappings = config.remappings.map((remapping) => remapping.split("=")).filter(([prefix]) => name.startsWith(prefix));
      const [from, to] = remappings.sort(([a], [b]) => b.length - a.length)[0] ?? ["", ""];
      target = to + name.slice(from.length);
    }
    importsOf(folder, config, target, found);
  }
  return found;
}

/** Puts code in the place of what forge built. */
function writeArtifact(folder, file, { bytecode, deployedBytecode }) {
  const name = path.join(folder, file);
  fs.writeFileSync(name, JSON.stringify({ ...JSON.parse(fs.readFileSync(name, "utf8")), bytecode, deployedBytecode }));
}

if (process.send) worker();
else main().catch(fail);
