#!/usr/bin/env node
// Prints our gas beside its targets and the peers' (contracts/bench/targets.json); fails on a miss without a reason.
"use strict";
const fs = require("fs");
const path = require("path");

const ROOT = path.join(__dirname, "../..");

/** The row's lines of the table, and what is wrong with it. */
function judge(row, ours, peers) {
  const problems = [];
  const read = (snapshots, name) => {
    if (name in snapshots) return Number(snapshots[name]);
    problems.push(`${row.operation}: no snapshot "${name}"`);
    return NaN;
  };
  const gas = read(ours, row.ours) / (row.divide ?? 1);

  let target = "";
  let verdict = "";
  if (row.atMost !== undefined) {
    const { text, met } = compare(row.atMost, gas, (name) => read(ours, name), (name) => read(peers, name));
    target = text;
    verdict = met ? "✔" : "✘";
    if (problems.length === 0 && !met && row.missed === undefined) {
      problems.push(`${row.operation}: ${number(gas)} gas, expected ${text}`);
    }
    if (met && row.missed !== undefined) {
      problems.push(`${row.operation}: the target is met, but "missed" still says why not: take that out`);
    }
  } else if (row.missed !== undefined) {
    problems.push(`${row.operation}: "missed" without a target`);
  }

  const lines = row.peers.map((peer, i) => {
    const theirs = peer.quoted ?? read(peers, peer.snapshot) / (peer.divide ?? 1);
    const own = i === 0 ? [row.operation, number(gas), target, verdict] : ["", "", "", ""];
    return [...own, peer.name, number(theirs) + (peer.quoted === undefined ? "" : " *"), ratio(gas / theirs)];
  });
  return { lines, problems, missed: verdict === "✘" ? row.missed : undefined };
}

/** Whether the gas keeps to a target: a number, `times` a peer's gas, or `within` a share of another of ours. */
function compare(target, gas, ourGas, peerGas) {
  if (typeof target === "number") return { text: `≤ ${number(target)}`, met: gas <= target };
  if (target.times !== undefined) {
    const limit = target.times * peerGas(target.peer);
    return { text: `≤ ${number(limit)} (${target.times} × peer)`, met: gas <= limit };
  }
  const other = ourGas(target.ours);
  const percent = 100 * target.within;
  return { text: `${number(other)} ± ${percent} %`, met: Math.abs(gas - other) <= target.within * other };
}

/** The whole report on the targets, given the snapshots' contents; `problems` is empty when all is well. */
function report(rows, ours, peers) {
  const judged = rows.map((row) => ({ row, ...judge(row, ours, peers) }));
  const lines = judged.flatMap((one) => one.lines);
  let text = table(["operation", "ours", "target", "", "beside", "its gas", "ours / its"], lines);
  if (rows.some((row) => row.peers.some((peer) => peer.quoted !== undefined))) {
    text += "\n* quoted, not run: Story's contracts on npm are under the Business Source License.\n";
  }
  for (const { row, missed } of judged) {
    if (missed !== undefined) text += `\nMissed: ${row.operation}, because ${missed}\n`;
  }
  const named = new Set(rows.flatMap((row) => [row.ours, row.atMost?.ours]));
  const others = Object.keys(ours).filter((name) => !named.has(name));
  if (others.length > 0) {
    const list = others.map((name) => [name, number(Number(ours[name]))]);
    text += `\n${table(["without a target or a peer", "gas"], list)}`;
  }
  return { text, problems: judged.flatMap((one) => one.problems) };
}

/** A Markdown table with columns lined up, numbers to the right. */
function table(head, lines) {
  const right = [false, true, true, false, false, true, true];
  const widths = head.map((_, i) => Math.max(3, ...[head, ...lines].map((line) => line[i].length)));
  const pad = (cell, i) => (right[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i]));
  const rule = widths.map((width, i) => (right[i] ? `${"-".repeat(width - 1)}:` : "-".repeat(width)));
  return [head, rule, ...lines].map((line) => `| ${line.map(pad).join(" | ")} |\n`).join("");
}

/** 16,626,104; 1.91; a dash for what was not measured. */
function number(gas) {
  if (Number.isNaN(gas)) return "—";
  return gas.toLocaleString("en-US", { maximumFractionDigits: gas < 100 ? 2 : 0 });
}

/** 0.66; two digits of what is smaller. */
function ratio(value) {
  if (Number.isNaN(value)) return "—";
  return value < 0.1 ? value.toPrecision(2) : value.toFixed(2);
}

function snapshots(name) {
  const file = `contracts/snapshots/${name}.json`;
  if (!fs.existsSync(path.join(ROOT, file))) throw new Error(`${file} is missing: scripts/bench gas writes it`);
  return JSON.parse(fs.readFileSync(path.join(ROOT, file), "utf8"));
}

if (require.main === module) {
  const rows = JSON.parse(fs.readFileSync(path.join(ROOT, "contracts/bench/targets.json"), "utf8"));
  const { text, problems } = report(rows, snapshots("Gas"), snapshots("Peers"));
  process.stdout.write(text);
  for (const problem of problems) console.error(`gas: ${problem}`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}

module.exports = { report };
