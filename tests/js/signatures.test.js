// EIP-712 digests and signatures against ethers and cast.
'use strict';

const assert = require('node:assert/strict');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { test } = require('node:test');
const { TypedDataEncoder, Wallet, keccak256, verifyTypedData } = require('ethers');
const { cast } = require('./cast.js');
const { base32, bytes, read } = require('./vectors.js');

const files = ['consents', 'withdrawals', 'verdicts', 'batches', 'dataset_versions', 'releases'];

/** A copy whose first field is another: what must not verify. */
function changed([{ name, type }], message) {
  const value = message[name];
  const last = (digit) => (digit === '0' ? '1' : '0');
  return { ...message, [name]: type.startsWith('uint') ? BigInt(value) ^ 1n : value.toLowerCase().replace(/.$/, last) };
}

for (const file of files) {
  const { domain, primaryType, types, vectors } = read(`${file}.json`);

  test(`${file}: ethers computes the digests`, () => {
    assert.ok(vectors.length > 1);
    for (const { name, message, digest } of vectors) {
      assert.equal(TypedDataEncoder.from(types).primaryType, primaryType);
      assert.equal(TypedDataEncoder.hash(domain, types, message), digest, name);
      const struct = TypedDataEncoder.hashStruct(primaryType, types, message);
      const separator = TypedDataEncoder.hashDomain(domain);
      assert.equal(keccak256(`0x1901${separator.slice(2)}${struct.slice(2)}`), digest, name);
    }
  });

  test(`${file}: ethers recovers the signers, and makes the same signatures`, async () => {
    for (const { name, message, key, signer, signature } of vectors) {
      assert.equal(verifyTypedData(domain, types, message, signature), signer, name);
      assert.equal(await new Wallet(key).signTypedData(domain, types, message), signature, name);
      assert.notEqual(verifyTypedData(domain, types, changed(types[primaryType], message), signature), signer, name);
      const elsewhere = { ...domain, chainId: domain.chainId + 1 };
      assert.notEqual(verifyTypedData(elsewhere, types, message, signature), signer, name);
    }
  });

  test(`${file}: cast makes the same signatures`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-'));
    try {
      for (const { name, message, digest, key, signer, signature } of vectors) {
        const path = join(folder, 'typed.json');
        writeFileSync(path, JSON.stringify(TypedDataEncoder.getPayload(domain, types, message)));
        assert.equal(cast('wallet', 'sign', '--private-key', key, '--data', '--from-file', path), signature, name);
        // the digest without EIP-191's prefix
        const plain = cast('wallet', 'sign', '--private-key', key, '--no-hash', digest);
        assert.equal(plain, signature, name);
        assert.match(cast('wallet', 'verify', '--address', signer, '--data', '--from-file', path, signature), /succe/);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test('a withdrawal names the digest of the consent that it takes back', () => {
  const consents = read('consents.json').vectors;
  read('withdrawals.json').vectors.forEach(({ message }, i) => assert.equal(message.consentId, consents[i].digest));
});

test('a manifest\'s CID stands in its header in binary', () => {
  for (const file of ['batches', 'dataset_versions']) {
    for (const { message, manifest_cid } of read(`${file}.json`).vectors) {
      assert.equal(`b${base32(bytes(message.manifestCid))}`, manifest_cid);
    }
  }
});
