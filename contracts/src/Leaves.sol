// SPDX-License-Identifier: MIT OR Apache-2.0
// Leaf hashes of the two Merkle trees, as OpenZeppelin's StandardMerkleTree computes them.
pragma solidity ^0.8.28;

import {Member} from "../interfaces/IIPRegistry.sol";
import {ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";

/// @dev Both structs are static, so their calldata is abi.encode of them already. A word with dirty upper bits gives a leaf
/// that no honest tree has, and reading the field reverts anyhow.
library Leaves {
    uint256 private constant EVENT_SIZE = 13 * 32;
    uint256 private constant MEMBER_SIZE = 5 * 32;

    /// @notice Leaf of an event in a batch: keccak256(bytes.concat(keccak256(abi.encode(e)))).
    function ofEvent(ProvenanceEvent calldata e) internal pure returns (bytes32 leaf) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, e, EVENT_SIZE)
            mstore(0x00, keccak256(free, EVENT_SIZE))
            leaf := keccak256(0x00, 0x20)
        }
    }

    /// @notice Leaf of a member in a dataset version: keccak256(bytes.concat(keccak256(abi.encode(member)))).
    function ofMember(Member calldata member) internal pure returns (bytes32 leaf) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, member, MEMBER_SIZE)
            mstore(0x00, keccak256(free, MEMBER_SIZE))
            leaf := keccak256(0x00, 0x20)
        }
    }
}
