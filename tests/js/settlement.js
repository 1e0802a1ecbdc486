// Recomputes every provider's points from chain and manifests alone, and compares them with what an indexer says:
//   node tests/js/settlement.js RPC_URL DEPLOYMENT_FILE CONTENT_FOLDER INDEXER_URL
// Nothing of the indexer or of our Rust is used: logs by RPC, Parquet by DuckDB, Merkle trees by OpenZeppelin. Manifests
// have to be single raw blocks (below 1 MiB); a larger one is told apart and fails the run.
'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { DuckDBInstance } = require('@duckdb/node-api');
const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const { Contract, Interface, JsonRpcProvider, getAddress } = require('ethers');
const { base32, bytes, read, sha256 } = require('./vectors.js');

const ZERO = '0x' + '00'.repeat(20);
const events = new Interface([
  'event ProviderRegistered(address indexed provider, string name, address attestor, address pointsTreasury, address token)',
  `event BatchAnchored(address indexed provider, uint64 indexed number, bytes32 indexed root, uint32 eventCount,
     uint128 pointsTotal, uint128 walletTotal, tuple(uint64 taskId, uint128 amount)[] debits, bytes manifestCid,
     address attestor, uint64 challengeUntil)`,
  'event DatasetRegistered(uint256 indexed ipId, address indexed provider, string name)',
  `event VersionRegistered(uint256 indexed ipId, uint32 indexed version, bytes32 root, uint32 memberCount,
     uint128 totalWeight, uint128 pointsWeight, uint32 purposes, bytes manifestCid, address attestor)`,
  `event LicenseSold(uint256 indexed licenseId, uint256 indexed ipId, uint32 indexed version, uint64 offerId, address buyer,
     uint128 price, uint128 providerShare, uint128 pointsShare, uint128 walletShare, uint64 startsAt, uint64 endsAt)`,
  'event PointsRedeemed(bytes32 indexed payoutId, bytes32 indexed account, uint128 amount, address to)',
]);

/** Name of the file that holds a raw block, checked against its CID. */
function block(folder, cid) {
  const digest = cid.slice(10);
  if (!cid.startsWith('0x01551220') || digest.length !== 64) throw new Error(`${cid}: expected a raw SHA-256 CID`);
  const text = `b${base32(bytes(cid))}`;
  const path = join(folder, text.slice(-2), text);
  if (sha256(readFileSync(path)) !== `0x${digest}`) throw new Error(`${path}: expected bytes of this CID, got others`);
  return `'${path.replaceAll("'", "''")}'`;
}

const hex = (column) => `'0x' || lower(hex(${column})) AS "${column.replace(/_(.)/g, (_, c) => c.toUpperCase())}"`;

async function rows(connection, columns, file) {
  const sql = `SELECT replace(data_id::VARCHAR, '-', '') AS uuid, ${columns}
    FROM read_parquet(${file}, file_row_number = true) ORDER BY file_row_number`;
  const result = (await connection.runAndReadAll(sql)).getRowObjectsJson();
  return result.map(({ uuid, ...row }) => ({ ...row, dataId: `0x${uuid}`, payee: getAddress(row.payee) }));
}

const root = (values, types) =>
  StandardMerkleTree.of(values.map((row) => types.map(([name]) => row[name])), types.map(([, kind]) => kind)).root;

/** Parts of an amount by weight: floors, then one unit each to the largest remainders, ties to the earlier. */
function split(amount, weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0n);
  const parts = weights.map((weight) => (amount * weight) / total);
  const order = weights.map((weight, at) => [(amount * weight) % total, at]);
  order.sort(([a, i], [b, j]) => (a === b ? i - j : a > b ? -1 : 1));
  const left = Number(amount - parts.reduce((sum, part) => sum + part, 0n));
  for (const [, at] of order.slice(0, left)) parts[at] += 1n;
  return parts;
}

async function recompute(rpc, deployment, folder, to) {
  const names = Object.values(deployment).filter((value) => /^0x[0-9a-fA-F]{40}$/.test(value));
  const logs = async (address) => {
    const found = await rpc.getLogs({ address, fromBlock: 0, toBlock: to });
    return found.map((log) => [log, events.parseLog(log)]).filter(([, said]) => said !== null);
  };
  const said = (await Promise.all(names.map(logs))).flat();
  said.sort(([a], [b]) => a.blockNumber - b.blockNumber || a.index - b.index);
  const of = (name) => said.filter(([, event]) => event.name === name).map(([, event]) => event.args);

  const providers = new Map(of('ProviderRegistered').map((args) => [
    args.provider, { treasury: args.pointsTreasury, issued: 0n, redeemed: 0n, accounts: new Map() },
  ]));
  const credit = (provider, account, amount) => {
    provider.issued += amount;
    provider.accounts.set(account, (provider.accounts.get(account) ?? 0n) + amount);
  };
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  const { types } = read('events.json');
  for (const batch of of('BatchAnchored')) {
    const found = await rows(connection, `index, sequence, kind,
      ${['contributor', 'content_hash', 'consent_id', 'commitment', 'previous', 'payee'].map(hex)},
      occurred_at::VARCHAR AS "occurredAt", task_id::VARCHAR AS "taskId", reward::VARCHAR AS reward`, block(folder, batch.manifestCid));
    const points = found.filter((event) => event.payee === ZERO && event.reward !== '0');
    const total = points.reduce((sum, event) => sum + BigInt(event.reward), 0n);
    if (root(found, types) !== batch.root || total !== batch.pointsTotal || BigInt(found.length) !== batch.eventCount) continue;
    for (const event of points) credit(providers.get(batch.provider), event.contributor, BigInt(event.reward));
  }
  const owner = new Map(of('DatasetRegistered').map((args) => [args.ipId, args.provider]));
  const version = new Map(of('VersionRegistered').map((args) => [`${args.ipId}/${args.version}`, args]));
  for (const sale of of('LicenseSold')) {
    const sold = version.get(`${sale.ipId}/${sale.version}`);
    const members = await rows(connection, `${['contributor', 'consent_id', 'payee'].map(hex)}, weight::VARCHAR AS weight`,
      block(folder, sold.manifestCid));
    const inPoints = members.filter(({ payee }) => payee === ZERO);
    if (root(members, read('members.json').types) !== sold.root || inPoints.length === 0) continue;
    // a pseudonym is made of a data id: a list in which one comes again is no version
    if (new Set(inPoints.map(({ contributor }) => contributor)).size !== inPoints.length) continue;
    const parts = split(sale.pointsShare, inPoints.map(({ weight }) => BigInt(weight)));
    inPoints.forEach(({ contributor }, at) => credit(providers.get(owner.get(sale.ipId)), contributor, parts[at]));
  }
  for (const provider of providers.values()) {
    const stopped = new Set();
    for (const [, { args: { account, amount } }] of await logs(provider.treasury)) {
      const balance = provider.accounts.get(account) ?? 0n;
      // a debit above the balance waits, and those of the account behind it
      if (stopped.has(account) || balance < amount) { stopped.add(account); continue; }
      provider.accounts.set(account, balance - amount);
      provider.redeemed += amount;
    }
    const treasury = new Contract(provider.treasury, ['function backing() view returns (uint256)'], rpc);
    provider.backing = await treasury.backing({ blockTag: to });
    provider.outstanding = [...provider.accounts.values()].reduce((sum, balance) => sum + balance, 0n);
  }
  return providers;
}

async function get(url, body) {
  const request = body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(url, request);
  if (!answer.ok) throw new Error(`${url}: expected 200, got ${answer.status}`);
  return answer.json();
}

async function main([rpcUrl, deploymentFile, folder, indexer]) {
  if (!indexer) throw new Error('expected RPC_URL DEPLOYMENT_FILE CONTENT_FOLDER INDEXER_URL');
  const rpc = new JsonRpcProvider(rpcUrl, undefined, { batchMaxCount: 1 });
  const settlement = await get(`${indexer}/v1/settlement`);
  const { block_number: to, block_hash: hash } = settlement.at;
  if ((await rpc.getBlock(to)).hash !== hash) throw new Error(`block ${to}: the indexer has another hash than the node`);
  const providers = await recompute(rpc, JSON.parse(readFileSync(deploymentFile, 'utf8')), folder, to);
  const differences = [];
  const compare = (what, expected, actual) => {
    if (String(expected) !== String(actual)) differences.push(`${what}: expected ${expected}, got ${actual}`);
  };
  compare('providers', providers.size, settlement.providers.length);
  let accounts = 0;
  for (const said of settlement.providers) {
    const provider = providers.get(getAddress(said.provider.address));
    for (const field of ['issued', 'redeemed', 'outstanding', 'backing']) compare(`${said.provider.name} ${field}`, provider[field], said[field]);
    compare(`${said.provider.name} covered`, provider.backing >= provider.outstanding, said.covered);
    const keys = [...provider.accounts.keys()];
    for (let at = 0; at < keys.length; at += 1000) {
      const asked = keys.slice(at, at + 1000);
      const answer = await get(`${indexer}/v1/accounts:query`, { provider: said.provider.name, accounts: asked });
      answer.accounts.forEach(({ balance }, i) => compare(`account ${asked[i]}`, provider.accounts.get(asked[i]), balance));
    }
    accounts += keys.length;
  }
  console.log(JSON.stringify({ block_number: to, providers: providers.size, accounts, differences }));
  rpc.destroy();
  return differences.length === 0 ? 0 : 1;
}

main(process.argv.slice(2)).then((code) => process.exit(code), (error) => {
  console.error(`recompute the settlement: ${error.message}`);
  process.exit(2);
});
