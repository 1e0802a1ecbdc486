// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @notice One thing that happened to one piece of data: one Merkle leaf.
/// leaf = keccak256(bytes.concat(keccak256(abi.encode(fields in this order)))), as in OpenZeppelin's StandardMerkleTree.
struct ProvenanceEvent {
    /// Position in its batch, from 0; the bit of the claim bitmap.
    uint32 index;
    /// UUIDv5 of the submission.
    bytes16 dataId;
    /// Per dataId, from 0, no gaps.
    uint32 sequence;
    /// 0 Registered, 1 Accepted, 2 Rejected, 3 MetadataUpdated, 4 ConsentWithdrawn, 5 Erased.
    uint8 kind;
    /// Per-record pseudonym: HMAC-SHA256(contributor secret, dataId).
    bytes32 contributor;
    /// SHA-256 of the submitted bytes.
    bytes32 contentHash;
    /// EIP-712 digest of the Consent it was given under; 0 where a provider registered metadata without one.
    bytes32 consentId;
    /// SHA-256(salt ‖ JCS(payload)).
    bytes32 commitment;
    /// Leaf of the event before it for this dataId; 0 at sequence 0.
    bytes32 previous;
    /// Unix seconds.
    uint64 occurredAt;
    /// 0 where none.
    uint64 taskId;
    /// Payment-token units; non-zero only on Accepted.
    uint128 reward;
    /// 0: paid in points by the provider; else claims in RewardPool.
    address payee;
}
