// Foundry's cast, run straight from its npm package.
'use strict';

const { execFileSync } = require('node:child_process');
const { arch, platform } = require('node:process');
const { join } = require('node:path');
const { root } = require('./vectors.js');

const name = `cast-${platform}-${arch === 'arm64' ? 'arm64' : 'amd64'}`;
const binary = join(root, 'node_modules', '@foundry-rs', name, 'bin', 'cast');

/** What cast prints for these arguments, on one line. */
const cast = (...args) => execFileSync(binary, args, { encoding: 'utf8', timeout: 30_000 }).trim();

module.exports = { cast };
