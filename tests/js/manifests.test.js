// The Parquet files opened in DuckDB, as a stranger with no code of ours would.
'use strict';

const assert = require('node:assert/strict');
const { join } = require('node:path');
const { after, before, test } = require('node:test');
const { DuckDBInstance } = require('@duckdb/node-api');
const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const canonicalize = require('canonicalize');
const { getAddress } = require('ethers');
const { bytes, folder, read, sha256 } = require('./vectors.js');

let database;
let connection;
before(async () => {
  database = await DuckDBInstance.create(':memory:');
  connection = await database.connect();
});
after(() => {
  connection.closeSync();
  database.closeSync();
});

const file = (name) => `'${join(folder, name).replaceAll("'", "''")}'`;

async function rows(sql) {
  const result = await connection.runAndReadAll(sql);
  return result.getRowObjectsJson();
}

const [batch] = read('batches.json').vectors;
const [version] = read('dataset_versions.json').vectors;
const hex = (column) => `'0x' || lower(hex(${column})) AS "${column.replace(/_(.)/g, (_, c) => c.toUpperCase())}"`;

test('a manifest has the types that a query wants', async () => {
  const types = await rows(`DESCRIBE SELECT * FROM ${file('manifest.parquet')}`);
  assert.deepEqual(types.map(({ column_name, column_type }) => [column_name, column_type]), [
    ['index', 'UINTEGER'],
    ['data_id', 'UUID'],
    ['sequence', 'UINTEGER'],
    ['kind', 'UTINYINT'],
    ['contributor', 'BLOB'],
    ['content_hash', 'BLOB'],
    ['consent_id', 'BLOB'],
    ['commitment', 'BLOB'],
    ['previous', 'BLOB'],
    ['occurred_at', 'UBIGINT'],
    ['task_id', 'UBIGINT'],
    ['reward', 'DECIMAL(38,0)'],
    ['payee', 'BLOB'],
  ]);
});

test('the rows of a manifest give the leaves, the root and the count of its header', async () => {
  const { types, vectors } = read('events.json');
  const events = await rows(`SELECT index, replace(data_id::VARCHAR, '-', '') AS uuid, sequence, kind,
    ${['contributor', 'content_hash', 'consent_id', 'commitment', 'previous', 'payee'].map(hex)},
    occurred_at::VARCHAR AS "occurredAt", task_id::VARCHAR AS "taskId", reward::VARCHAR AS reward
    FROM ${file('manifest.parquet')} ORDER BY index`);
  const values = events.map(({ uuid, ...event }, i) => {
    const read = { ...event, dataId: `0x${uuid}`, payee: getAddress(event.payee) };
    assert.deepEqual(read, vectors[i].event);
    return types.map(([name]) => read[name]);
  });
  const tree = StandardMerkleTree.of(values, types.map(([, kind]) => kind));
  assert.equal(tree.root, batch.message.root);
  assert.equal(values.length, batch.message.eventCount);
});

test('a manifest\'s sums are those of its header, exactly', async () => {
  const [sums] = await rows(`SELECT
    SUM(reward)::VARCHAR AS total,
    SUM(reward) FILTER (payee = from_hex(repeat('00', 20)))::VARCHAR AS points,
    SUM(reward) FILTER (payee <> from_hex(repeat('00', 20)))::VARCHAR AS wallet
    FROM ${file('manifest.parquet')}`);
  const { pointsTotal, walletTotal, debits } = batch.message;
  assert.deepEqual(sums, {
    total: (BigInt(pointsTotal) + BigInt(walletTotal)).toString(),
    points: pointsTotal,
    wallet: walletTotal,
  });
  assert.ok(BigInt(sums.total) > 2n ** 95n);
  const byTask = await rows(`SELECT task_id::VARCHAR AS "taskId", SUM(reward)::VARCHAR AS amount
    FROM ${file('manifest.parquet')} WHERE reward > 0 GROUP BY task_id ORDER BY task_id`);
  assert.deepEqual(byTask, debits);
});

test('a manifest says whose it is and where its disclosures are', async () => {
  const pairs = await rows(`SELECT decode(key) AS key, decode(value) AS value
    FROM parquet_kv_metadata(${file('manifest.parquet')}) ORDER BY 1`);
  const metadata = Object.fromEntries(pairs.map(({ key, value }) => [key, value]));
  assert.equal(metadata['tidemark.provider'], batch.message.provider);
  assert.equal(metadata['tidemark.number'], batch.message.number);
  assert.match(metadata['tidemark.disclosures'], /^bafkrei[a-z2-7]{52}$/);
});

test('every disclosure opens its event\'s commitment, and its payload is canonical', async () => {
  const disclosed = await rows(`
    SELECT e.index, lower(hex(e.commitment)) AS commitment, lower(hex(d.salt)) AS salt, d.payload
    FROM ${file('disclosures.parquet')} d JOIN ${file('manifest.parquet')} e USING (index) ORDER BY 1`);
  assert.ok(disclosed.length > 5);
  for (const { commitment, salt, payload } of disclosed) {
    assert.equal(sha256(bytes(`0x${salt}`), payload), `0x${commitment}`);
    assert.equal(canonicalize(JSON.parse(payload)), payload);
  }
});

test('the rows of a members manifest give the root, count and weights of its version', async () => {
  const { types, vectors } = read('members.json');
  const members = await rows(`SELECT replace(data_id::VARCHAR, '-', '') AS uuid,
    ${['contributor', 'consent_id', 'payee'].map(hex)}, weight::VARCHAR AS weight
    FROM ${file('members.parquet')} ORDER BY data_id`);
  const values = members.map(({ uuid, ...member }, i) => {
    const read = { ...member, dataId: `0x${uuid}`, payee: getAddress(member.payee) };
    assert.deepEqual(read, vectors[i].member);
    return types.map(([name]) => read[name]);
  });
  assert.equal(StandardMerkleTree.of(values, types.map(([, kind]) => kind)).root, version.message.root);
  const [sums] = await rows(`SELECT COUNT(*)::INTEGER AS "memberCount", SUM(weight)::VARCHAR AS "totalWeight",
    SUM(weight) FILTER (payee = from_hex(repeat('00', 20)))::VARCHAR AS "pointsWeight"
    FROM ${file('members.parquet')}`);
  const { memberCount, totalWeight, pointsWeight } = version.message;
  assert.deepEqual(sums, { memberCount, totalWeight, pointsWeight });
});
