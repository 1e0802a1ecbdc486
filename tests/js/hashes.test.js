// Ids, pseudonyms, canonical JSON and point splits against Node's own crypto, an independent canonicalizer and BigInt.
'use strict';

const assert = require('node:assert/strict');
const { createHash, createHmac } = require('node:crypto');
const { test } = require('node:test');
const canonicalize = require('canonicalize');
const { bytes, read, sha256 } = require('./vectors.js');

const compare = (a, b) => Number(a > b) - Number(a < b);
const ofUuid = (text) => Buffer.from(text.replaceAll('-', ''), 'hex');

/** RFC 9562, section 5.5. */
function uuidV5(namespace, name) {
  const uuid = createHash('sha1').update(ofUuid(namespace)).update(name).digest().subarray(0, 16);
  uuid[6] = (uuid[6] & 0x0f) | 0x50;
  uuid[8] = (uuid[8] & 0x3f) | 0x80;
  return uuid.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

test('a data id is the UUIDv5 of provider and source record id', () => {
  const { namespace, vectors } = read('data_ids.json');
  assert.equal(uuidV5('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'tidemark.protocol'), namespace);
  for (const { provider, source_record_id, trimmed, data_id, bytes: raw } of vectors) {
    assert.equal(source_record_id.trim(), trimmed);
    assert.equal(uuidV5(namespace, `${provider}\0${trimmed}`), data_id);
    assert.equal(`0x${ofUuid(data_id).toString('hex')}`, raw);
  }
});

test('a pseudonym is the HMAC of the data id', () => {
  const { vectors } = read('pseudonyms.json');
  for (const { secret, data_id, pseudonym } of vectors) {
    const hmac = createHmac('sha256', bytes(secret)).update(ofUuid(data_id)).digest('hex');
    assert.equal(`0x${hmac}`, pseudonym);
  }
  assert.equal(new Set(vectors.map(({ pseudonym }) => pseudonym)).size, vectors.length);
});

test('canonical JSON is what another implementation of RFC 8785 writes', () => {
  for (const { name, input, canonical, metadata_root, salt, commitment } of read('canonical.json').vectors) {
    assert.equal(canonicalize(JSON.parse(input)), canonical, name);
    assert.equal(canonicalize(JSON.parse(canonical)), canonical, name);
    assert.equal(sha256(canonical), metadata_root, name);
    assert.equal(sha256(bytes(salt), canonical), commitment, name);
  }
});

test('points are split by largest remainder, and the parts sum to the whole', () => {
  for (const vector of read('splits.json').vectors) {
    const amount = BigInt(vector.amount);
    const weights = vector.weights.map(BigInt);
    const total = weights.reduce((a, b) => a + b);
    const parts = weights.map((weight) => (amount * weight) / total);
    const remainder = (i) => (amount * weights[i]) % total;
    let left = amount - parts.reduce((a, b) => a + b);
    // Array.prototype.sort is stable: equal remainders keep their order
    const order = weights.map((_, i) => i).sort((i, j) => compare(remainder(j), remainder(i)));
    for (const i of order) {
      if (left-- <= 0n) break;
      parts[i] += 1n;
    }
    assert.deepEqual(parts.map(String), vector.parts);
    assert.equal(parts.reduce((a, b) => a + b), amount);
  }
});
