// SPDX-License-Identifier: MIT OR Apache-2.0
// Proofs in a Merkle tree far too big to build: a few neighbouring leaves are real, the rest is given by its hashes.
pragma solidity ^0.8.28;

/// Pairs are sorted before they are hashed, as OpenZeppelin's MerkleProof, Uniswap's and ours have it.
library DeepTree {
    /// @notice The root of a tree of 2^depth leaves, `leaves` among them: a power of two of them, side by side.
    function rootOf(bytes32[] memory leaves, uint256 depth) internal pure returns (bytes32 node) {
        bytes32[] memory proof = proofOf(leaves, 0, depth);
        node = leaves[0];
        for (uint256 i = 0; i < depth; ++i) {
            node = _hashPair(node, proof[i]);
        }
    }

    /// @notice The siblings on the way from leaves[i] to that root, `depth` of them.
    function proofOf(bytes32[] memory leaves, uint256 i, uint256 depth) internal pure returns (bytes32[] memory proof) {
        proof = new bytes32[](depth);
        bytes32[] memory row = leaves;
        uint256 level = 0;
        for (; row.length > 1; ++level) {
            proof[level] = row[i ^ 1];
            bytes32[] memory above = new bytes32[](row.length / 2);
            for (uint256 j = 0; j < above.length; ++j) {
                above[j] = _hashPair(row[2 * j], row[2 * j + 1]);
            }
            (row, i) = (above, i / 2);
        }
        for (; level < depth; ++level) {
            proof[level] = keccak256(abi.encode("a subtree of this height", level));
        }
    }

    function _hashPair(bytes32 a, bytes32 b) private pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }
}
