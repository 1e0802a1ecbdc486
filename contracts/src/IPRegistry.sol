// SPDX-License-Identifier: MIT OR Apache-2.0
// Registers datasets with numbered, attested versions, and single contributions, as ERC-721 tokens.
pragma solidity ^0.8.28;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IIPRegistry, Member, Version, VersionContent} from "./interfaces/IIPRegistry.sol";
import {IProvenanceLog, ProvenanceEvent} from "./interfaces/IProvenanceLog.sol";
import {Leaves} from "./Leaves.sol";
import {Metadata} from "./Metadata.sol";

contract IPRegistry is IIPRegistry, ERC721, EIP712 {
    using Leaves for Member;
    using Strings for *;

    /* CONSTANTS */

    bytes32 private constant VERSION_TYPEHASH = keccak256(
        "DatasetVersion(uint256 ipId,uint32 version,bytes32 root,uint32 memberCount,uint128 totalWeight,uint128 pointsWeight,bytes manifestCid)"
    );
    uint8 private constant KIND_ACCEPTED = 1;
    uint256 private constant CID_LENGTH_MAX = 64;
    uint256 private constant NAME_LENGTH_MAX = 64;

    IProvenanceLog private immutable LOG;
    IConsentRegistry private immutable CONSENTS;

    struct Dataset {
        address provider;
        uint32 latestVersion;
        string name;
    }

    struct Contribution {
        address provider;
        uint64 number;
        bytes16 dataId;
    }

    /* STORAGE */

    mapping(uint256 ipId => Dataset) private _datasets;
    mapping(uint256 ipId => mapping(uint32 version => Version)) private _versions;
    mapping(uint256 ipId => Contribution) private _contributions;

    constructor(IProvenanceLog log, IConsentRegistry consents)
        ERC721("Tidemark IP", "TIDE-IP")
        EIP712("Tidemark IPRegistry", "1")
    {
        LOG = log;
        CONSENTS = consents;
    }

    /* DATASETS */

    /// @inheritdoc IIPRegistry
    function registerDataset(string calldata name, VersionContent calldata content, bytes calldata signature)
        external
        returns (uint256 ipId)
    {
        require(bytes(name).length > 0 && bytes(name).length <= NAME_LENGTH_MAX, NameInvalid(name));
        ipId = datasetIdOf(msg.sender, name);
        require(_datasets[ipId].provider == address(0), DatasetExists(ipId));

        _datasets[ipId] = Dataset({provider: msg.sender, latestVersion: 0, name: name});
        emit DatasetRegistered(ipId, msg.sender, name);
        _mint(msg.sender, ipId);
        _addVersion(ipId, content, signature);
    }

    /// @inheritdoc IIPRegistry
    function registerVersion(uint256 ipId, VersionContent calldata content, bytes calldata signature)
        external
        returns (uint32 version)
    {
        address provider = _datasets[ipId].provider;
        require(provider != address(0), DatasetUnknown(ipId));
        require(provider == msg.sender, OnlyProvider(provider, msg.sender));
        return _addVersion(ipId, content, signature);
    }

    /// @inheritdoc IIPRegistry
    function reportWithdrawn(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof) external {
        require(_versions[ipId][version].root != 0, VersionUnknown(ipId, version));
        require(isMember(ipId, version, member, proof), MemberUnknown(ipId, version, member.dataId));
        require(CONSENTS.withdrawnAt(member.consentId) != 0, ConsentStands(member.consentId));

        _versions[ipId][version].withdrawn = true;
        emit VersionWithdrawn(ipId, version, member.dataId, member.consentId);
    }

    /* CONTRIBUTIONS */

    /// @inheritdoc IIPRegistry
    function registerContribution(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        returns (uint256 ipId)
    {
        require(e.kind == KIND_ACCEPTED, NotAccepted(e.kind));
        require(e.payee == msg.sender, OnlyPayee(e.payee, msg.sender));
        require(LOG.contains(provider, number, e, proof), ProofInvalid(provider, number, e.index));
        ipId = uint256(keccak256(abi.encode("contribution", provider, e.dataId)));
        require(_ownerOf(ipId) == address(0), ContributionExists(ipId));

        _contributions[ipId] = Contribution({provider: provider, number: number, dataId: e.dataId});
        emit ContributionRegistered(ipId, provider, number, e.dataId, msg.sender);
        _mint(msg.sender, ipId);
    }

    /* VIEWS */

    /// @inheritdoc IIPRegistry
    function datasetIdOf(address provider, string calldata name) public pure returns (uint256) {
        return uint256(keccak256(abi.encode(provider, name)));
    }

    /// @inheritdoc IIPRegistry
    function nameOf(uint256 ipId) external view returns (string memory) {
        return _datasets[ipId].name;
    }

    /// @inheritdoc IIPRegistry
    function providerOf(uint256 ipId) external view returns (address) {
        return _datasets[ipId].provider;
    }

    /// @inheritdoc IIPRegistry
    function latestVersionOf(uint256 ipId) external view returns (uint32) {
        return _datasets[ipId].latestVersion;
    }

    /// @inheritdoc IIPRegistry
    function versionOf(uint256 ipId, uint32 version) external view returns (Version memory) {
        return _versions[ipId][version];
    }

    /// @inheritdoc IIPRegistry
    function memberLeafOf(Member calldata member) external pure returns (bytes32) {
        return member.ofMember();
    }

    /// @inheritdoc IIPRegistry
    function isMember(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        public
        view
        returns (bool)
    {
        bytes32 root = _versions[ipId][version].root;
        return root != 0 && MerkleProof.verifyCalldata(proof, root, member.ofMember());
    }

    /// @inheritdoc IIPRegistry
    function digestOf(uint256 ipId, uint32 version, VersionContent calldata content) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    VERSION_TYPEHASH,
                    ipId,
                    version,
                    content.root,
                    content.memberCount,
                    content.totalWeight,
                    content.pointsWeight,
                    keccak256(content.manifestCid)
                )
            )
        );
    }

    /// @notice On-chain JSON and SVG.
    function tokenURI(uint256 ipId) public view override returns (string memory) {
        _requireOwned(ipId);
        return _datasets[ipId].provider != address(0) ? _datasetURI(ipId) : _contributionURI(ipId);
    }

    /* INTERNAL */

    function _addVersion(uint256 ipId, VersionContent calldata content, bytes calldata signature)
        private
        returns (uint32 version)
    {
        address attestor = LOG.providerOf(msg.sender).attestor;
        require(attestor != address(0), ProviderUnknown(msg.sender));
        require(_isWellFormed(content), VersionInvalid());
        version = _datasets[ipId].latestVersion + 1;
        bytes32 digest = digestOf(ipId, version, content);
        require(
            SignatureChecker.isValidSignatureNowCalldata(attestor, digest, signature),
            AttestationInvalid(attestor, digest)
        );

        _datasets[ipId].latestVersion = version;
        _versions[ipId][version] = Version({
            root: content.root,
            totalWeight: content.totalWeight,
            pointsWeight: content.pointsWeight,
            memberCount: content.memberCount,
            registeredAt: uint64(block.timestamp),
            withdrawn: false
        });
        emit VersionRegistered(
            ipId,
            version,
            content.root,
            content.memberCount,
            content.totalWeight,
            content.pointsWeight,
            content.manifestCid,
            attestor
        );
    }

    function _isWellFormed(VersionContent calldata content) private pure returns (bool) {
        uint256 cidLength = content.manifestCid.length;
        return content.root != 0 && content.memberCount > 0 && content.totalWeight > 0
            && content.pointsWeight <= content.totalWeight && cidLength > 0 && cidLength <= CID_LENGTH_MAX;
    }

    function _datasetURI(uint256 ipId) private view returns (string memory) {
        Dataset storage dataset = _datasets[ipId];
        uint32 number = dataset.latestVersion;
        Version storage version = _versions[ipId][number];
        string memory provider = dataset.provider.toChecksumHexString();
        string memory root = uint256(version.root).toHexString(32);

        string[] memory lines = new string[](5);
        lines[0] = string.concat("Dataset of provider ", provider);
        lines[1] = string.concat(
            "Version ", number.toString(), ", ", version.memberCount.toString(), " records, registered at "
        );
        lines[1] = string.concat(lines[1], version.registeredAt.toString(), " (Unix seconds)");
        lines[2] = string.concat("Root ", root);
        lines[3] = version.withdrawn ? "Not for sale: a consent was withdrawn" : "No withdrawn consent reported";
        lines[4] = string.concat("Tidemark IP ", ipId.toHexString(32));

        string[] memory traits = new string[](6);
        traits[0] = Metadata.trait("Kind", "dataset");
        traits[1] = Metadata.trait("Provider", provider);
        traits[2] = Metadata.trait("Version", number);
        traits[3] = Metadata.trait("Records", version.memberCount);
        traits[4] = Metadata.trait("Root", root);
        traits[5] = Metadata.trait("Consent withdrawn", version.withdrawn ? "yes" : "no");
        return Metadata.uri(dataset.name, lines, traits);
    }

    function _contributionURI(uint256 ipId) private view returns (string memory) {
        Contribution storage contribution = _contributions[ipId];
        string memory provider = contribution.provider.toChecksumHexString();
        string memory dataId = Metadata.uuid(contribution.dataId);

        string[] memory lines = new string[](3);
        lines[0] = string.concat("Accepted by provider ", provider);
        lines[1] = string.concat("Anchored in batch ", contribution.number.toString());
        lines[2] = string.concat("Tidemark IP ", ipId.toHexString(32));

        string[] memory traits = new string[](4);
        traits[0] = Metadata.trait("Kind", "contribution");
        traits[1] = Metadata.trait("Provider", provider);
        traits[2] = Metadata.trait("Batch", contribution.number);
        traits[3] = Metadata.trait("Data ID", dataId);
        return Metadata.uri(string.concat("Contribution ", dataId), lines, traits);
    }
}
