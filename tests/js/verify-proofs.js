// Reads an answer of GET /v1/records/{data_id}/proofs from stdin and verifies it with OpenZeppelin's library; exits with 1 where it fails.
'use strict';
const fs = require('node:fs');
const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');

const { types, proofs } = JSON.parse(fs.readFileSync(0, 'utf8'));
for (const { value, proof, batch } of proofs) {
  if (!StandardMerkleTree.verify(batch.root, types, value, proof)) {
    console.log(`not in the tree: ${JSON.stringify(value)}`);
    process.exit(1);
  }
}
console.log(`verified ${proofs.length}`);
