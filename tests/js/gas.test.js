// contracts/tools/gas.js: a missed gas target fails, unless it is listed with its reason; nothing passes unmeasured.
'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { join } = require('node:path');
const { root } = require('./vectors.js');
const { report } = require(join(root, 'contracts', 'tools', 'gas.js'));
const targets = require(join(root, 'contracts', 'bench', 'targets.json'));

const ours = { anchor: '110000', claim: '66000', small: '101000', big: '102010' };
const peers = { attest: '16626104', 'their claim': '60000' };
const row = (change) => ({
  operation: 'anchor a batch',
  ours: 'anchor',
  atMost: 110000,
  peers: [{ name: 'EAS, each of 100', snapshot: 'attest', divide: 100 }],
  ...change,
});
const problems = (change) => report([row(change)], ours, peers).problems;

test('a target that is just kept passes, and one gas less fails', () => {
  assert.deepEqual(problems({}), []);
  assert.deepEqual(problems({ atMost: 109999 }), ['anchor a batch: 110,000 gas, expected ≤ 109,999']);
});

test('the table has our gas, the target, the peer and the ratio', () => {
  const { text } = report([row({ peers: [...row().peers, { name: 'Story', quoted: 721415 }] })], ours, peers);
  const cells = text.split('\n').map((line) => line.split('|').map((cell) => cell.trim()).slice(1, -1));
  assert.deepEqual(cells[2], ['anchor a batch', '110,000', '≤ 110,000', '✔', 'EAS, each of 100', '166,261', '0.66']);
  assert.deepEqual(cells[3], ['', '', '', '', 'Story', '721,415 *', '0.15']);
  assert.match(text, /^\* quoted, not run/m);
});

test('what no target names is listed, and only that', () => {
  const { text } = report([row()], ours, peers);
  assert.match(text, /^\| small +\| 101,000 \|$/m);
  assert.doesNotMatch(text, /^\| anchor +\|/m);
});

test('gas of many is divided by their number', () => {
  assert.deepEqual(problems({ divide: 55000, atMost: 2 }), []);
  assert.deepEqual(problems({ divide: 50000, atMost: 2 }), ['anchor a batch: 2.2 gas, expected ≤ 2']);
});

test("a target that is a multiple of a peer's gas follows the peer", () => {
  const atMost = (times) => ({ ours: 'claim', atMost: { times, peer: 'their claim' } });
  assert.deepEqual(problems(atMost(1.1)), []);
  assert.deepEqual(problems(atMost(1.05)), ['anchor a batch: 66,000 gas, expected ≤ 63,000 (1.05 × peer)']);
});

test('two that must cost the same may differ by their share, either way', () => {
  assert.deepEqual(problems({ ours: 'big', atMost: { within: 0.01, ours: 'small' } }), []);
  assert.equal(problems({ ours: 'big', atMost: { within: 0.009, ours: 'small' } }).length, 1);
  assert.equal(problems({ ours: 'small', atMost: { within: 0.009, ours: 'big' } }).length, 1);
});

test('a miss with a reason passes and prints it; a reason without a miss fails', () => {
  const change = { atMost: 100000, missed: 'the treasury is a contract of its own.' };
  const missed = report([row(change)], ours, peers);
  assert.deepEqual(missed.problems, []);
  assert.match(missed.text, /✘[^]*Missed: anchor a batch, because the treasury is a contract of its own\./);
  assert.match(problems({ missed: 'once true' })[0], /target is met, but "missed"/);
  assert.match(problems({ atMost: undefined, missed: 'once true' })[0], /"missed" without a target/);
});

test('what was not measured fails, with or without a reason', () => {
  assert.deepEqual(problems({ ours: 'gone' }), ['anchor a batch: no snapshot "gone"']);
  assert.deepEqual(problems({ ours: 'gone', missed: 'no' }), ['anchor a batch: no snapshot "gone"']);
  assert.deepEqual(problems({ peers: [{ name: 'x', snapshot: 'gone' }] }), ['anchor a batch: no snapshot "gone"']);
  assert.equal(problems({ atMost: { times: 1.1, peer: 'gone' } }).length, 1);
  assert.equal(problems({ atMost: { within: 0.01, ours: 'gone' } }).length, 1);
});

test("every target that is listed is of a known kind, beside a peer's gas", () => {
  for (const target of targets) {
    const { atMost } = target;
    const known = atMost === undefined || atMost > 0 || (atMost.times > 0 && atMost.peer) || (atMost.within > 0 && atMost.ours);
    assert.ok(known, target.operation);
    assert.ok(target.peers.length > 0 && target.peers.every((peer) => peer.name && (peer.snapshot || peer.quoted > 0)), target.operation);
  }
});
