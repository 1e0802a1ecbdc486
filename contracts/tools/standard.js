// Compiles one contract alone, from its own sources, as an explorer that verifies it will.
//
// Where several are compiled together, solc's order of functions, and with it the code, can depend on the others.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const ROOT = path.join(__dirname, "../..");

/** A contract's fully qualified name, standard JSON input, compiler version, ABI and code; settings are those of `forge build`. */
function compileAlone(name) {
  const artifact = `contracts/out/${name}.sol/${name}.json`;
  if (!fs.existsSync(path.join(ROOT, artifact))) fail(`${artifact} is missing: run forge build first`);
  const { metadata } = JSON.parse(fs.readFileSync(path.join(ROOT, artifact), "utf8"));
  const [source] = Object.keys(metadata.settings.compilationTarget);
  const input = standardInput(metadata);
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const failed = (output.errors ?? []).find((error) => error.severity === "error");
  if (failed) fail(`${name}: ${failed.formattedMessage}`);
  const { abi, evm } = output.contracts[source][name];
  return {
    contract: `${source}:${name}`,
    compiler: `v${metadata.compiler.version}`,
    input,
    abi,
    bytecode: `0x${evm.bytecode.object}`,
    deployedBytecode: `0x${evm.deployedBytecode.object}`,
  };
}

/** The compiler's own input for one contract, with the text of each source in it. */
function standardInput({ language, settings, sources }) {
  const { compilationTarget, remappings, ...rest } = settings;
  const used = remappings.filter((line) => Object.keys(sources).some((file) => file.startsWith(line.split("=")[1])));
  const outputSelection = { "*": { "*": ["abi", "evm.bytecode", "evm.deployedBytecode"] } };
  const texts = Object.keys(sources).map((file) => [file, { content: fs.readFileSync(path.join(ROOT, file), "utf8") }]);
  return { language, sources: Object.fromEntries(texts), settings: { ...rest, remappings: used, outputSelection } };
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

module.exports = { compileAlone };
