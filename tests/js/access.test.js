// docs/access.md lists every function that changes something, of every contract, and no other.
'use strict';

const assert = require('node:assert/strict');
const { readdirSync, readFileSync } = require('node:fs');
const { test } = require('node:test');
const { join } = require('node:path');
const { root } = require('./vectors.js');

const ABIS = join(root, 'sdk', 'abi');
// never deployed but for development
const NOT_DOCUMENTED = ['DevToken'];

/** Contract → { privileged, open }: the calls that the page lists under it. */
function documented(page) {
  const contracts = {};
  const [, calls] = page.split(/^## Calls$/m);
  assert.ok(calls, 'the page has no section "Calls"');
  for (const section of calls.split(/^## /m)[0].split(/^### /m).slice(1)) {
    const [heading] = section.split('\n');
    const rows = section.split('\n').filter((line) => line.startsWith('| `'));
    for (const row of rows) assert.equal(row.split('|').length, 6, `a row with other than four cells: ${row}`);
    const open = (section.match(/^Open to anyone[^]*?\.$/m) ?? [''])[0].replace(/\([^)]*\)/g, '');
    const listed = { privileged: rows.flatMap((row) => names(row.split('|')[1])), open: names(open) };
    for (const name of heading.split(', ')) contracts[name] = listed;
  }
  return contracts;
}

const names = (text) => [...text.matchAll(/`(\w+)`/g)].map(([, name]) => name);

/** Contract → names of its functions that are neither view nor pure. */
function built() {
  const files = readdirSync(ABIS).map((file) => file.replace('.json', ''));
  return Object.fromEntries(
    files
      .filter((name) => !NOT_DOCUMENTED.includes(name))
      .map((name) => {
        const { abi } = JSON.parse(readFileSync(join(ABIS, `${name}.json`), 'utf8'));
        const changing = abi.filter((it) => it.type === 'function' && !['view', 'pure'].includes(it.stateMutability));
        return [name, [...new Set(changing.map((it) => it.name))].sort()];
      }),
  );
}

/** What is wrong with the page, in words. */
function problems(page, contracts) {
  const listed = documented(page);
  const found = [];
  for (const [contract, functions] of Object.entries(contracts)) {
    const { privileged, open } = listed[contract] ?? { privileged: [], open: [] };
    if (!listed[contract]) found.push(`${contract} has no section`);
    const all = [...privileged, ...open];
    for (const name of functions) if (!all.includes(name)) found.push(`${contract}.${name} is missing`);
    for (const name of all) if (!functions.includes(name)) found.push(`${contract}.${name} does not exist`);
    for (const name of new Set(all)) {
      if (all.filter((it) => it === name).length > 1) found.push(`${contract}.${name} is listed twice`);
    }
  }
  for (const contract of Object.keys(listed)) if (!contracts[contract]) found.push(`${contract} is no contract`);
  return found;
}

const page = readFileSync(join(root, 'docs', 'access.md'), 'utf8');

test('every function that changes something is on the page, and nothing else', () => {
  const contracts = built();
  assert.ok(contracts.ProvenanceLog.includes('anchor') && contracts.Disputes.includes('rule'));
  assert.deepEqual(problems(page, contracts), []);
});

test('what only the authority may call is listed with its role', () => {
  for (const [contract, call, role] of [
    ['ProvenanceLog', '`pause`, `unpause`', 'PAUSER'],
    ['LicenseRegistry', '`pause`, `unpause`', 'PAUSER'],
    ['Disputes', '`rule`', 'ARBITER'],
  ]) {
    const section = page.split(`### ${contract}\n`)[1].split('\n### ')[0];
    assert.ok(section.includes(`| ${call} | ${role} |`), `${contract}: ${call}`);
  }
});

test('a new, a renamed and a removed function each fail', () => {
  const contracts = built();
  const changed = (change) => problems(page, { ...contracts, ...change });
  assert.deepEqual(changed({ Disputes: [...contracts.Disputes, 'drain'] }), ['Disputes.drain is missing']);
  assert.deepEqual(changed({ Renderer: ['render'] }), ['Renderer.render is missing']);
  assert.deepEqual(changed({ Vault: [] }), ['Vault has no section']);
  const without = contracts.PointsTreasury.filter((name) => name !== 'setOperator');
  assert.deepEqual(changed({ PointsTreasury: without }), ['PointsTreasury.setOperator does not exist']);
  const twice = page.replace('`lapse`, `payCredit`', '`lapse`, `lapse`, `payCredit`');
  assert.notEqual(twice, page);
  assert.deepEqual(problems(twice, contracts), ['Disputes.lapse is listed twice']);
});

test("the page's role numbers and delays are those that the deployment sets", () => {
  const deploy = readFileSync(join(root, 'sdk', 'src', 'deploy.rs'), 'utf8');
  const days = (name) => Number(deploy.match(new RegExp(`${name}: u32 = (\\d* ?\\*? ?)DAY_SECONDS`))[1].replace(' * ', '') || 1);
  const row = (role) => page.split('\n').find((line) => line.startsWith(`| ${role} | `)).split('|').map((cell) => cell.trim());
  for (const role of ['ADMIN', 'PAUSER', 'ARBITER', 'GUARDIAN']) {
    const [, number] = deploy.match(new RegExp(`pub const ${role}: u64 = (\\d+);`));
    assert.equal(row(role)[2], number, role);
  }
  const inWords = (count) => `${count} day${count === 1 ? '' : 's'}`;
  assert.equal(row('ADMIN')[4], inWords(days('ADMIN_DELAY_SECONDS')));
  assert.equal(row('ARBITER')[4], inWords(days('RULING_DELAY_SECONDS')));
  assert.match(page, new RegExp(`their target admin delay, ${inWords(days('TARGET_DELAY_SECONDS'))}`));
});
