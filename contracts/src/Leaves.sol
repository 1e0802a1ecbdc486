// SPDX-License-Identifier: MIT OR Apache-2.0
// Leaf hashes of the two Merkle trees, as OpenZeppelin's StandardMerkleTree computes them.
pragma solidity ^0.8.28;

import {Member} from "../interfaces/IIPRegistry.sol";
import {ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";

/// @dev Both structs are static, so their calldata is abi.encode of them already. A word with dirty bits gives a leaf that no
/// honest tree has; it must not be paid where another contract, which decodes the event, cannot read it.
library Leaves {
    uint256 private constant EVENT_SIZE = 13 * 32;
    uint256 private constant MEMBER_SIZE = 5 * 32;

    /// @notice Leaf of an event in a batch: keccak256(bytes.concat(keccak256(abi.encode(e)))).
    /// @dev Reverts where a field has bits beyond its type, as decoding it would.
    function ofEvent(ProvenanceEvent calldata e) internal pure returns (bytes32 leaf) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, e, EVENT_SIZE)
            // index, dataId, sequence, kind; occurredAt, taskId, reward, payee
            let dirty := or(shr(32, or(mload(free), mload(add(free, 0x40)))), shl(128, mload(add(free, 0x20))))
            dirty := or(dirty, shr(8, mload(add(free, 0x60))))
            dirty := or(dirty, shr(64, or(mload(add(free, 0x120)), mload(add(free, 0x140)))))
            dirty := or(dirty, or(shr(128, mload(add(free, 0x160))), shr(160, mload(add(free, 0x180)))))
            if dirty { revert(0x00, 0x00) }
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
