// Where the vectors are, and small things that several tests here need.
'use strict';

const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..', '..');
const folder = join(root, 'tests', 'vectors');

/** The parsed JSON of one file of vectors. */
const read = (name) => JSON.parse(readFileSync(join(folder, name), 'utf8'));

/** SHA-256 over parts, as 0x hex. */
function sha256(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return `0x${hash.digest('hex')}`;
}

/** Bytes of 0x hex. */
const bytes = (hex) => Buffer.from(hex.slice(2), 'hex');

/** RFC 4648 base32, lower case, without padding: a CIDv1's text after its b. */
function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return bits.replace(/.{1,5}/g, (five) => 'abcdefghijklmnopqrstuvwxyz234567'[parseInt(five.padEnd(5, '0'), 2)]);
}

/** Byte i is i mod 251, in pieces, so that a large file needs little memory. */
function* pattern(size) {
  // a multiple of 251 near 1 MiB
  const piece = Uint8Array.from({ length: 251 * 4096 }, (_, i) => i % 251);
  for (let at = 0; at < size; at += piece.length) yield piece.subarray(0, Math.min(piece.length, size - at));
}

module.exports = { root, folder, read, sha256, bytes, base32, pattern };
