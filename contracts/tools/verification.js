#!/usr/bin/env node
// Writes what Sourcify, Etherscan and Blockscout want to verify a deployment, after compiling it again and finding the same code.
"use strict";
const fs = require("fs");
const path = require("path");
const { getCreate2Address, keccak256, concat } = require("ethers");
const { compileAlone } = require("./standard");

const ROOT = path.join(__dirname, "../..");
const CREATE2_PROXY = "0x4e59b44847b379578588920cA78FbF26c0B4956C";
/** The field of the deployment file with each contract's address. */
const FIELDS = {
  Authority: "authority",
  ProvenanceLog: "provenance_log",
  Disputes: "disputes",
  ConsentRegistry: "consent_registry",
  Renderer: "renderer",
  IPRegistry: "ip_registry",
  LicenseRegistry: "license_registry",
};

const USAGE = `usage: node contracts/tools/verification.js DEPLOYMENT.json [FOLDER]

Writes FOLDER (deployments/verification/CHAIN by default) with, for each contract:
  NAME.input.json   standard JSON input of solc, with every source file
and contracts.json  address, fully qualified name, compiler version, constructor arguments

Sourcify:    POST /server/v2/verify/CHAIN/ADDRESS with stdJsonInput, compilerVersion, contractIdentifier
Etherscan:   verifysourcecode, codeformat solidity-standard-json-input
Blockscout:  the same form, or its "Standard JSON input" page

Needs \`forge build\` before; example:
  node contracts/tools/verification.js deployments/11155111.json`;

function main() {
  const [file, folder] = process.argv.slice(2);
  if (!file || file === "--help" || file === "-h") return exit(USAGE, file ? 0 : 2);
  const deployment = JSON.parse(fs.readFileSync(file, "utf8"));
  const out = folder ?? path.join(ROOT, `deployments/verification/${deployment.chain_id}`);
  fs.mkdirSync(out, { recursive: true });
  const listed = Object.entries(FIELDS).map(([name, field]) => verification(deployment, name, deployment[field], out));
  fs.writeFileSync(path.join(out, "contracts.json"), JSON.stringify(listed, null, 2) + "\n");
  console.log(`${listed.length} contracts, files in ${path.relative(process.cwd(), out)}`);
}

/** Writes one contract's input; fails where it does not compile to what is deployed. */
function verification(deployment, name, address, out) {
  const code = deployment.code?.[name] ?? exit(`${name}: not in the deployment file's "code"`, 1);
  const { contract, compiler, input, bytecode: creation } = compileAlone(name);
  const committed = JSON.parse(fs.readFileSync(path.join(ROOT, `sdk/abi/${name}.json`), "utf8")).bytecode.object;
  if (creation !== committed) exit(`${name}: compiles to other code than sdk/abi/${name}.json holds`, 1);
  const arguments_ = code.constructor_arguments;
  // the log deploys Disputes itself, with the code that its own init code holds
  const deployed = getCreate2Address(CREATE2_PROXY, deployment.salt, keccak256(concat([creation, arguments_])));
  if (name !== "Disputes" && deployed.toLowerCase() !== address.toLowerCase())
    exit(`${name}: code, salt and arguments give ${deployed}, the deployment file says ${address}`, 1);
  fs.writeFileSync(path.join(out, `${name}.input.json`), JSON.stringify(input, null, 1) + "\n");
  console.log(`${name}: ${address}, compiled again to the same code`);
  return {
    name,
    address,
    contract,
    compiler,
    constructor_arguments: arguments_,
    code_hash: code.hash,
  };
}

function exit(message, status) {
  (status === 0 ? console.log : console.error)(message);
  process.exit(status);
}

main();
