// SPDX-License-Identifier: MIT OR Apache-2.0
// Leaf hashes of the two Merkle trees, as OpenZeppelin's StandardMerkleTree computes them.
pragma solidity ^0.8.28;

import {Member} from "./interfaces/IIPRegistry.sol";
import {ProvenanceEvent} from "./interfaces/IProvenanceLog.sol";

library Leaves {
    /// @notice Leaf of an event in a batch.
    function ofEvent(ProvenanceEvent calldata e) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(e))));
    }

    /// @notice Leaf of a member in a dataset version.
    function ofMember(Member calldata member) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(member))));
    }
}
