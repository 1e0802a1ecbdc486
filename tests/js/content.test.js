// CIDs against js-ipfs, and sealed content against Node's OpenSSL and ethers' secp256k1.
'use strict';

const assert = require('node:assert/strict');
const { createCipheriv, createDecipheriv, createHash, hkdfSync } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');
const { SigningKey } = require('ethers');
const { base32, bytes, folder, pattern, read } = require('./vectors.js');

/** The root that js-ipfs computes, with the layout that the protocol names. */
async function importedCid(source) {
  const { importer } = await import('ipfs-unixfs-importer');
  const { fixedSize } = await import('ipfs-unixfs-importer/chunker');
  const { balanced } = await import('ipfs-unixfs-importer/layout');
  const nowhere = { put: async (cid) => cid };
  const options = {
    cidVersion: 1,
    rawLeaves: true,
    // Kubo makes a file of one chunk that chunk
    reduceSingleLeafToSelf: true,
    wrapWithDirectory: false,
    chunker: fixedSize({ chunkSize: 1 << 20 }),
    layout: balanced({ maxChildrenPerNode: 174 }),
  };
  let root;
  for await (const entry of importer([{ content: source }], nowhere, options)) root = entry.cid;
  return root;
}

for (const { size, sha256, cid } of read('cids.json').vectors) {
  test(`a file of ${size} bytes has the CID that js-ipfs computes`, async () => {
    assert.equal((await importedCid(pattern(size))).toString(), cid);
  });

  test(`the content hash of ${size} bytes is plain SHA-256`, () => {
    const hash = createHash('sha256');
    for (const piece of pattern(size)) hash.update(piece);
    assert.equal(`sha256:${hash.digest('hex')}`, sha256);
  });
}

test('headers name the manifests by the CIDs that js-ipfs computes', async () => {
  const [batch] = read('batches.json').vectors;
  const [version] = read('dataset_versions.json').vectors;
  for (const [file, vector] of [['manifest.parquet', batch], ['members.parquet', version]]) {
    const cid = await importedCid([readFileSync(join(folder, file))]);
    assert.equal(cid.toString(), vector.manifest_cid);
    assert.equal(`b${base32(cid.bytes)}`, vector.manifest_cid);
    assert.deepEqual(Buffer.from(cid.bytes), bytes(vector.message.manifestCid));
  }
});

/* SEALING */

/** HChaCha20 (draft-irtf-cfrg-xchacha-03, section 2.2). */
function hchacha20(key, nonce16) {
  const state = new Uint32Array([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  const words = (buffer) => Array.from({ length: buffer.length / 4 }, (_, i) => buffer.readUInt32LE(4 * i));
  const x = Uint32Array.from([...state, ...words(key), ...words(nonce16)]);
  const rotate = (v, n) => (v << n) | (v >>> (32 - n));
  const quarter = (a, b, c, d) => {
    x[a] += x[b]; x[d] = rotate(x[d] ^ x[a], 16);
    x[c] += x[d]; x[b] = rotate(x[b] ^ x[c], 12);
    x[a] += x[b]; x[d] = rotate(x[d] ^ x[a], 8);
    x[c] += x[d]; x[b] = rotate(x[b] ^ x[c], 7);
  };
  for (let round = 0; round < 10; round += 1) {
    quarter(0, 4, 8, 12); quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15);
    quarter(0, 5, 10, 15); quarter(1, 6, 11, 12); quarter(2, 7, 8, 13); quarter(3, 4, 9, 14);
  }
  const out = Buffer.alloc(32);
  [0, 1, 2, 3, 12, 13, 14, 15].forEach((word, i) => out.writeUInt32LE(x[word], 4 * i));
  return out;
}

/** XChaCha20-Poly1305 over OpenSSL's ChaCha20-Poly1305; throws where the tag is wrong. */
function open(key, nonce24, aad, sealed) {
  const nonce = Buffer.concat([Buffer.alloc(4), nonce24.subarray(16)]);
  const subkey = hchacha20(key, nonce24.subarray(0, 16));
  const cipher = createDecipheriv('chacha20-poly1305', subkey, nonce, { authTagLength: 16 });
  cipher.setAAD(aad, { plaintextLength: sealed.length - 16 });
  cipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()]);
}

const sealing = read('sealing.json');
const dataId = Buffer.from(sealing.data_id.replaceAll('-', ''), 'hex');

test('HChaCha20 here is that of the draft', () => {
  const key = Buffer.from(Array.from({ length: 32 }, (_, i) => i));
  const nonce = Buffer.from('000000090000004a0000000031415927', 'hex');
  const expected = '82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc';
  assert.equal(hchacha20(key, nonce).toString('hex'), expected);
});

test('content opens with OpenSSL under its key and data id only', () => {
  const nonce = Buffer.alloc(24);
  nonce[15] = 1;
  const key = bytes(sealing.content_key);
  for (const { plaintext, ciphertext } of sealing.ciphertexts) {
    assert.equal(open(key, nonce, dataId, bytes(ciphertext)).toString(), plaintext);
    assert.throws(() => open(key, nonce, Buffer.alloc(16), bytes(ciphertext)));
  }
});

test('a long file is sealed in chunks that count and know the last', () => {
  const { size, ciphertext_sha256 } = sealing.chunked;
  const plaintext = Buffer.concat([...pattern(size)]);
  const hash = createHash('sha256');
  for (let at = 0, chunk = 0; at < size; at += 1 << 20, chunk += 1) {
    const nonce = Buffer.alloc(24);
    nonce[15] = at + (1 << 20) >= size ? 1 : 0;
    nonce.writeBigUInt64BE(BigInt(chunk), 16);
    const subkey = hchacha20(bytes(sealing.content_key), nonce.subarray(0, 16));
    const nonce12 = Buffer.concat([Buffer.alloc(4), nonce.subarray(16)]);
    const cipher = createCipheriv('chacha20-poly1305', subkey, nonce12, { authTagLength: 16 });
    const piece = plaintext.subarray(at, at + (1 << 20));
    cipher.setAAD(dataId, { plaintextLength: piece.length });
    hash.update(cipher.update(piece)).update(cipher.final()).update(cipher.getAuthTag());
  }
  assert.equal(`0x${hash.digest('hex')}`, ciphertext_sha256);
});

// what a sealed key is bound to: provider ‖ dataId ‖ consentId
function binding({ provider, data_id, consent_id }) {
  return Buffer.concat([bytes(provider), Buffer.from(data_id.replaceAll('-', ''), 'hex'), bytes(consent_id)]);
}

test('a sealed key opens with ECDH by ethers and HKDF by OpenSSL', () => {
  const { public_key, ephemeral, ciphertext } = sealing.sealed_key;
  const bound = binding(sealing.sealed_key);
  assert.equal(bound.length, 68);
  const custodian = new SigningKey(sealing.custodian_secret);
  assert.equal(custodian.compressedPublicKey, public_key);
  const shared = SigningKey.computePublicKey(custodian.computeSharedSecret(ephemeral), true);
  const info = Buffer.concat([Buffer.from('tidemark/content-key/1'), bytes(ephemeral), bytes(public_key), bound]);
  const wrapping = Buffer.from(hkdfSync('sha256', bytes(shared), Buffer.alloc(0), info, 32));
  const key = open(wrapping, Buffer.alloc(24), bound, bytes(ciphertext));
  assert.equal(`0x${key.toString('hex')}`, sealing.content_key);
});

test('a sealed key\'s proof shows that the sealer knew r', () => {
  const { public_key, ephemeral, ciphertext, challenge, response } = sealing.sealed_key;
  const times = (point, scalar) => SigningKey.computePublicKey(new SigningKey(scalar).computeSharedSecret(point), true);
  const minus = (point) => point.replace(/^0x0[23]/, (tag) => (tag === '0x02' ? '0x03' : '0x02'));
  // kG = zG − cR
  const nonce = SigningKey.addPoints(new SigningKey(response).publicKey, minus(times(ephemeral, challenge)), true);
  const label = Buffer.from('tidemark/sealed-key-proof/1');
  const parts = [label, bytes(ephemeral), bytes(public_key), binding(sealing.sealed_key), bytes(ciphertext), bytes(nonce)];
  const hash = createHash('sha256');
  for (const part of parts) {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(part.length));
    hash.update(length).update(part);
  }
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
  assert.equal(BigInt(`0x${hash.digest('hex')}`) % order, BigInt(challenge));
});
