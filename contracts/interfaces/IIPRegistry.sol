// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ProvenanceEvent} from "./IProvenanceLog.sol";

/// @notice One record's part in a dataset version: one leaf of the version's tree.
/// leaf = keccak256(bytes.concat(keccak256(abi.encode(fields in this order)))).
struct Member {
    bytes16 dataId;
    bytes32 contributor;
    bytes32 consentId;
    /// 0: its royalties are points.
    address payee;
    uint96 weight;
}

/// @notice What a dataset version commits to.
struct VersionContent {
    bytes32 root;
    uint32 memberCount;
    /// Sum of all members' weights, below 2^96.
    uint128 totalWeight;
    /// Sum of the weights of members without a payee.
    uint128 pointsWeight;
    /// The purposes that every member's consent allows: the bits of Consent.purposes, and-ed.
    uint32 purposes;
    /// Binary CIDv1 of the Parquet manifest of members.
    bytes manifestCid;
}

struct Version {
    bytes32 root;
    uint128 totalWeight;
    uint128 pointsWeight;
    uint32 memberCount;
    uint64 registeredAt;
    uint32 purposes;
    /// A member's consent was withdrawn: not for sale any more.
    bool withdrawn;
}

/// @notice What a sale needs to know of a dataset: its provider and its newest version.
struct Sale {
    /// 0 where there is no dataset.
    address provider;
    uint32 version;
    uint32 purposes;
    bool withdrawn;
    uint128 totalWeight;
    uint128 pointsWeight;
}

/// @title IP assets as ERC-721 that never change hands (ERC-5192): datasets with numbered versions, and single contributions.
interface IIPRegistry {
    event DatasetRegistered(uint256 indexed ipId, address indexed provider, string name);
    event VersionRegistered(
        uint256 indexed ipId,
        uint32 indexed version,
        bytes32 root,
        uint32 memberCount,
        uint128 totalWeight,
        uint128 pointsWeight,
        uint32 purposes,
        bytes manifestCid,
        address attestor
    );
    event VersionWithdrawn(uint256 indexed ipId, uint32 indexed version, bytes16 dataId, bytes32 consentId);
    event ContributionRegistered(
        uint256 indexed ipId, address indexed provider, uint64 indexed number, bytes16 dataId, address owner
    );

    error ProviderUnknown(address provider);
    error DatasetExists(uint256 ipId);
    error ContributionExists(uint256 ipId);
    error DatasetUnknown(uint256 ipId);
    error VersionUnknown(uint256 ipId, uint32 version);
    error OnlyProvider(address provider, address caller);
    error NameInvalid(string name);
    error VersionInvalid();
    error AttestationInvalid(address attestor, bytes32 digest);
    error MemberUnknown(uint256 ipId, uint32 version, bytes16 dataId);
    error ConsentStands(bytes32 consentId);
    error ProofInvalid(address provider, uint64 number, uint32 index);
    error OnlyPayee(address payee, address caller);
    error NotAccepted(uint8 kind);
    error Soulbound(uint256 ipId);

    /// @notice Registers the caller's dataset with its first version (number 1).
    /// @param name 1–64 bytes, unique per provider. ipId = uint256(keccak256(abi.encode(provider, name))).
    /// @param signature EIP-712 of the provider's attestor over
    /// DatasetVersion(uint256 ipId,uint32 version,bytes32 root,uint32 memberCount,uint128 totalWeight,uint128 pointsWeight,uint32 purposes,bytes manifestCid).
    function registerDataset(string calldata name, VersionContent calldata content, bytes calldata signature)
        external
        returns (uint256 ipId);

    /// @notice Adds the next version; the one before is no longer for sale.
    function registerVersion(uint256 ipId, VersionContent calldata content, bytes calldata signature)
        external
        returns (uint32 version);

    /// @notice Takes a version off sale that counts a member whose consent was withdrawn; anyone may.
    function reportWithdrawn(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof) external;

    /// @notice Registers one accepted contribution as an IP asset of its payee.
    function registerContribution(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        returns (uint256 ipId);

    function datasetIdOf(address provider, string calldata name) external pure returns (uint256);
    function nameOf(uint256 ipId) external view returns (string memory);
    /// @notice The provider of a dataset; 0 where there is none.
    function providerOf(uint256 ipId) external view returns (address);
    function latestVersionOf(uint256 ipId) external view returns (uint32);
    function versionOf(uint256 ipId, uint32 version) external view returns (Version memory);
    function versionRootOf(uint256 ipId, uint32 version) external view returns (bytes32);
    function saleOf(uint256 ipId) external view returns (Sale memory);
    function memberLeafOf(Member calldata member) external pure returns (bytes32);
    function isMember(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        external
        view
        returns (bool);
    /// @notice EIP-712 digest that the attestor signs for a version.
    function digestOf(uint256 ipId, uint32 version, VersionContent calldata content) external view returns (bytes32);
}
