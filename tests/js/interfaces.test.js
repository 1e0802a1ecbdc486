// The npm package @tidemark/interfaces: what `npm pack` puts into it compiles in a stranger's contract, with nothing else.
'use strict';

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { readdirSync, readFileSync } = require('node:fs');
const { test } = require('node:test');
const { join } = require('node:path');
const solc = require('solc');
const { root } = require('./vectors.js');

const folder = join(root, 'contracts', 'interfaces');
const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
const PREFIX = '@tidemark/interfaces/';

/** Paths of the files in the package, as npm itself says. */
function packed() {
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--offline', folder], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
    timeout: 60_000,
  });
  const report = JSON.parse(output);
  // a list in npm 6 to 11, an object by name from 12 on
  const [{ files }] = Object.values(report);
  return files.map((file) => file.path);
}

const files = packed();

/** Compiles one source that may import only the package's files; the contracts in it, or the compiler's errors. */
function compile(content) {
  const input = {
    language: 'Solidity',
    sources: { 'Foreign.sol': { content } },
    settings: { evmVersion: 'cancun', outputSelection: { 'Foreign.sol': { '*': ['evm.bytecode.object', 'abi'] } } },
  };
  const read = (path) => {
    const name = path.startsWith(PREFIX) ? path.slice(PREFIX.length) : '';
    if (!files.includes(name)) return { error: `${path} is not in the package` };
    return { contents: readFileSync(join(folder, name), 'utf8') };
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));
  const errors = (output.errors ?? []).filter((error) => error.severity === 'error');
  return { contracts: output.contracts?.['Foreign.sol'], errors: errors.map((error) => error.formattedMessage) };
}

const header = '// SPDX-License-Identifier: MIT\npragma solidity ^0.8.28;\n';

test('the package holds every interface, its licences, and nothing that is not meant', () => {
  const interfaces = readdirSync(folder).filter((name) => name.endsWith('.sol'));
  assert.ok(interfaces.length >= 11);
  assert.deepEqual([...files].sort(), [...interfaces, 'LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'package.json'].sort());
  assert.equal(manifest.name, '@tidemark/interfaces');
  assert.equal(manifest.license, 'MIT OR Apache-2.0');
  assert.match(manifest.version, /^\d+\.\d+\.\d+$/);
  assert.deepEqual({ ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.devDependencies }, {});
  assert.equal(manifest.scripts, undefined);
  for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
    assert.equal(readFileSync(join(folder, licence), 'utf8'), readFileSync(join(root, licence), 'utf8'));
  }
});

test('every file is interfaces, structs and enums only, under both licences, and compiles alone', () => {
  for (const name of files.filter((path) => path.endsWith('.sol'))) {
    const text = readFileSync(join(folder, name), 'utf8');
    assert.match(text, /^\/\/ SPDX-License-Identifier: MIT OR Apache-2\.0\n/, name);
    assert.doesNotMatch(text, /^\s*(abstract contract|contract|library)\s/m, name);
    for (const [, path] of text.matchAll(/^import .* from "([^"]+)";$/gm)) assert.match(path, /^\.\/\w+\.sol$/, name);
    assert.deepEqual(compile(`${header}import "${PREFIX}${name}";`).errors, [], name);
  }
});

test('a stranger calls every contract with the package alone', () => {
  const source = `${header}
import {IAttestorQuorum} from "${PREFIX}IAttestorQuorum.sol";
import {Consent, IConsentRegistry} from "${PREFIX}IConsentRegistry.sol";
import {Dispute, Ground, IDisputes} from "${PREFIX}IDisputes.sol";
import {IIPRegistry, Member, Version} from "${PREFIX}IIPRegistry.sol";
import {ILicenseRegistry, LicenseView, Terms} from "${PREFIX}ILicenseRegistry.sol";
import {IPointsTreasury, PointsDebit} from "${PREFIX}IPointsTreasury.sol";
import {Batch, IProvenanceLog, Provider, ProvenanceEvent} from "${PREFIX}IProvenanceLog.sol";
import {Claim, IRewardPool, Permit, Task} from "${PREFIX}IRewardPool.sol";

contract Collector {
    IProvenanceLog private immutable LOG;

    constructor(IProvenanceLog log) {
        LOG = log;
    }

    function collect(Claim[] calldata claims, IPointsTreasury treasury) external returns (uint256) {
        LOG.claimMany(claims);
        Provider memory provider = LOG.providerOf(claims[0].provider);
        LOG.sweepPoints(claims[0].provider);
        return provider.pointsAccrued + treasury.backing();
    }

    function dispute(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        returns (address payee)
    {
        IDisputes disputes = IDisputes(LOG.disputes());
        uint256 id = disputes.challenge(provider, number, e, proof, Ground.Duplicate, 0, "");
        return disputes.disputeOf(id).payee;
    }

    function price(ILicenseRegistry licenses, uint64 offerId) external view returns (uint128) {
        (, , Terms memory terms) = licenses.offerOf(offerId);
        return terms.price;
    }
}`;
  const { contracts, errors } = compile(source);
  assert.deepEqual(errors, []);
  assert.ok(contracts.Collector.evm.bytecode.object.length > 0);
});

test("the README's example compiles", () => {
  const [, example] = readFileSync(join(folder, 'README.md'), 'utf8').match(/```solidity\n([^]*?)```/);
  const { contracts, errors } = compile(example);
  assert.deepEqual(errors, []);
  assert.deepEqual(contracts.LicensedOnly.abi.filter((it) => it.type === 'function').map((it) => it.name), ['mayTrain']);
});

test('an implementation can not be imported, and a wrong call does not compile', () => {
  assert.match(compile(`${header}import "${PREFIX}../src/Disputes.sol";`).errors.join(), /not in the package/);
  assert.match(compile(`${header}import "@openzeppelin/contracts/token/ERC20/IERC20.sol";`).errors.join(), /not in the package/);
  const wrong = `${header}import {IDisputes} from "${PREFIX}IDisputes.sol"; contract C { function f(IDisputes d) external { d.drain(); } }`;
  assert.match(compile(wrong).errors.join(), /"drain" not found/);
});
