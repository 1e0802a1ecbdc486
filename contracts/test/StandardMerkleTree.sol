// SPDX-License-Identifier: MIT OR Apache-2.0
// Builds the trees of @openzeppelin/merkle-tree's StandardMerkleTree: sorted leaves, sorted pairs.
pragma solidity ^0.8.28;

library StandardMerkleTree {
    /// @notice All nodes, the root first: node i has the children 2i+1 and 2i+2.
    function build(bytes32[] memory leaves) internal pure returns (bytes32[] memory tree) {
        bytes32[] memory sorted = _sorted(leaves);
        tree = new bytes32[](2 * sorted.length - 1);
        for (uint256 i = 0; i < sorted.length; ++i) {
            tree[tree.length - 1 - i] = sorted[i];
        }
        for (uint256 i = sorted.length - 1; i > 0; --i) {
            tree[i - 1] = _hashPair(tree[2 * i - 1], tree[2 * i]);
        }
    }

    function proofOf(bytes32[] memory tree, bytes32 leaf) internal pure returns (bytes32[] memory proof) {
        uint256 node = tree.length - 1;
        while (tree[node] != leaf) --node;
        uint256 depth = 0;
        for (uint256 i = node; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        proof = new bytes32[](depth);
        for (uint256 i = 0; i < depth; ++i) {
            proof[i] = tree[node % 2 == 1 ? node + 1 : node - 1];
            node = (node - 1) / 2;
        }
    }

    function _sorted(bytes32[] memory leaves) private pure returns (bytes32[] memory sorted) {
        sorted = new bytes32[](leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            uint256 j = i;
            for (; j > 0 && sorted[j - 1] > leaves[i]; --j) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = leaves[i];
        }
    }

    function _hashPair(bytes32 a, bytes32 b) private pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }
}
