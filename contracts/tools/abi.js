#!/usr/bin/env node
// Writes sdk/abi/<Name>.json: ABI and code of each contract, compiled alone (run `forge build` before); --check only says what is stale.
"use strict";
const fs = require("fs");
const path = require("path");
const { compileAlone } = require("./standard");

const ROOT = path.join(__dirname, "../..");
const NAMES = [
  "Authority",
  "ProvenanceLog",
  "Disputes",
  "PointsTreasury",
  "ConsentRegistry",
  "Renderer",
  "IPRegistry",
  "LicenseRegistry",
  "AttestorQuorum",
  "DevToken",
];

/** The exported text of one contract: ABI entries sorted by kind, name and inputs; one entry a line. */
function render(name) {
  const { abi, bytecode, deployedBytecode } = compileAlone(name);
  const entries = abi
    .map((entry) => [[entry.type, entry.name ?? "", JSON.stringify(entry.inputs ?? [])].join(" "), JSON.stringify(sortKeys(entry))])
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([, text]) => text);
  const object = (code) => `{"object":${JSON.stringify(code)}}`;
  return `{"abi":[\n${entries.join(",\n")}\n],\n"bytecode":${object(bytecode)},\n"deployedBytecode":${object(deployedBytecode)}}\n`;
}

function sortKeys(value) {
  if (Array.isArray(value)) return value.map(sortKeys);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sortKeys(value[key])]));
}

const check = process.argv.includes("--check");
let stale = 0;
for (const name of NAMES) {
  const file = path.join(ROOT, `sdk/abi/${name}.json`);
  const text = render(name);
  if (check) {
    if (!fs.existsSync(file) || fs.readFileSync(file, "utf8") !== text) {
      console.error(`stale: ${path.relative(ROOT, file)} (run forge build, then node contracts/tools/abi.js)`);
      stale += 1;
    }
  } else {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, text);
  }
}
process.exit(stale === 0 ? 0 : 1);
