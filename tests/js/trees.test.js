// Leaves, roots and proofs against @openzeppelin/merkle-tree, and ABI encodings against ethers and cast.
'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const { AbiCoder, keccak256 } = require('ethers');
const { cast } = require('./cast.js');
const { read } = require('./vectors.js');

const events = read('events.json');
const members = read('members.json');
const trees = read('trees.json');
const coder = AbiCoder.defaultAbiCoder();

const row = (types, value) => types.map(([name]) => value[name]);
const kinds = (types) => types.map(([, kind]) => kind);

/** Root, leaves and proofs are the library's, and the library verifies our proofs and no changed ones. */
function sameTree(values, types, ours) {
  const theirs = StandardMerkleTree.of(values, types);
  assert.equal(theirs.root, ours.root);
  assert.equal(ours.leaves.length, values.length);
  values.forEach((value, i) => {
    assert.equal(theirs.leafHash(value), ours.leaves[i]);
    assert.deepEqual(theirs.getProof(i), ours.proofs[i]);
    assert.ok(StandardMerkleTree.verify(ours.root, types, value, ours.proofs[i]));
    const other = values[(i + 1) % values.length];
    assert.equal(StandardMerkleTree.verify(ours.root, types, other, ours.proofs[i]), values.length === 1);
  });
}

test('every leaf of an event is the double hash of its ABI encoding', () => {
  assert.ok(events.vectors.length >= 20);
  assert.deepEqual([...new Set(events.vectors.map(({ event }) => event.kind))].sort(), [0, 1, 2, 3, 4, 5]);
  for (const { name, event, abi_hash, leaf } of events.vectors) {
    const hash = keccak256(coder.encode(kinds(events.types), row(events.types, event)));
    assert.equal(hash, abi_hash, name);
    assert.equal(keccak256(hash), leaf, name);
  }
});

test('cast encodes and hashes an event to the same leaf', () => {
  const signature = `f(${kinds(events.types)})`;
  for (const { name, event, abi_hash, leaf } of events.vectors.filter((_, i) => i % 5 === 0)) {
    const encoded = cast('abi-encode', signature, ...row(events.types, event).map(String));
    assert.equal(cast('keccak', encoded), abi_hash, name);
    assert.equal(cast('keccak', abi_hash), leaf, name);
  }
});

test('every leaf of a member is the double hash of its ABI encoding', () => {
  for (const { member, leaf } of members.vectors) {
    assert.equal(keccak256(keccak256(coder.encode(kinds(members.types), row(members.types, member)))), leaf);
  }
});

test('a tree of events is the library\'s', () => {
  const values = events.vectors.map(({ event }) => row(events.types, event));
  sameTree(values, kinds(events.types), trees.events);
});

test('a tree of members is the library\'s', () => {
  const values = members.vectors.map(({ member }) => row(members.types, member));
  sameTree(values, kinds(members.types), members.tree);
});

test('trees of 1, 2, 3, 5, 8 and 33 leaves are the library\'s', () => {
  assert.deepEqual(trees.trees.map(({ values }) => values.length), [1, 2, 3, 5, 8, 33]);
  for (const tree of trees.trees) sameTree(tree.values, trees.types, tree);
});

test('a dataset\'s id is the hash of its provider and name', () => {
  for (const { provider, name, ip_id } of read('dataset_versions.json').dataset_ids) {
    assert.equal(BigInt(keccak256(coder.encode(['address', 'string'], [provider, name]))).toString(), ip_id);
  }
});
