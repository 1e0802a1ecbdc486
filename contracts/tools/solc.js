#!/usr/bin/env node
// Speaks for npm's solc what forge asks of a native one: `--version`, else standard JSON from stdin to stdout.
"use strict";
const fs = require("fs");
const solc = require("solc");

if (process.argv.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface");
  console.log(`Version: ${solc.version().replace(".Emscripten.clang", ".Linux.g++")}`);
} else {
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8")));
}
