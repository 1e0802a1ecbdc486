// SPDX-License-Identifier: MIT OR Apache-2.0
// Registers datasets with numbered, attested versions, and single contributions, as ERC-721 tokens.
pragma solidity ^0.8.28;

import {IERC4906} from "@openzeppelin/contracts/interfaces/IERC4906.sol";
import {IERC165} from "@openzeppelin/contracts/interfaces/IERC165.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProofLib} from "solady/src/utils/MerkleProofLib.sol";
import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {IERC5192} from "../interfaces/IERC5192.sol";
import {IERC7572} from "../interfaces/IERC7572.sol";
import {IIPRegistry, Member, Sale, Version, VersionContent} from "../interfaces/IIPRegistry.sol";
import {IProvenanceLog, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {IRenderer} from "../interfaces/IRenderer.sol";
import {Leaves} from "./Leaves.sol";
import {Signatures} from "./Signatures.sol";

contract IPRegistry is IIPRegistry, IERC4906, IERC5192, IERC7572, ERC721, EIP712 {
    using Signatures for bytes;
    using Leaves for Member;

    /* CONSTANTS */

    bytes32 private constant VERSION_TYPEHASH = keccak256(
        "DatasetVersion(uint256 ipId,uint32 version,bytes32 root,uint32 memberCount,uint128 totalWeight,uint128 pointsWeight,uint32 purposes,bytes manifestCid)"
    );
    uint8 private constant KIND_ACCEPTED = 1;
    uint256 private constant CID_LENGTH_MAX = 64;
    uint256 private constant NAME_LENGTH_MAX = 64;
    uint256 private constant WEIGHT_MAX = type(uint96).max;
    /// As ERC-4906 gives it.
    bytes4 private constant IERC4906_ID = 0x49064906;

    IProvenanceLog private immutable LOG;
    IConsentRegistry private immutable CONSENTS;
    IRenderer private immutable RENDERER;

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

    constructor(IProvenanceLog log, IConsentRegistry consents, IRenderer renderer)
        ERC721("Tidemark IP", "TIDE-IP")
        EIP712("Tidemark IPRegistry", "1")
    {
        LOG = log;
        CONSENTS = consents;
        RENDERER = renderer;
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
        emit Locked(ipId);
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
        version = _addVersion(ipId, content, signature);
        emit MetadataUpdate(ipId);
    }

    /// @inheritdoc IIPRegistry
    function reportWithdrawn(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof) external {
        require(_versions[ipId][version].root != 0, VersionUnknown(ipId, version));
        require(isMember(ipId, version, member, proof), MemberUnknown(ipId, version, member.dataId));
        require(CONSENTS.withdrawnAt(member.consentId) != 0, ConsentStands(member.consentId));

        _versions[ipId][version].withdrawn = true;
        emit VersionWithdrawn(ipId, version, member.dataId, member.consentId);
        emit MetadataUpdate(ipId);
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
        emit Locked(ipId);
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
    function versionRootOf(uint256 ipId, uint32 version) external view returns (bytes32) {
        return _versions[ipId][version].root;
    }

    /// @inheritdoc IIPRegistry
    function saleOf(uint256 ipId) external view returns (Sale memory) {
        Dataset storage dataset = _datasets[ipId];
        (address provider, uint32 number) = (dataset.provider, dataset.latestVersion);
        Version storage version = _versions[ipId][number];
        return Sale({
            provider: provider,
            version: number,
            purposes: version.purposes,
            withdrawn: version.withdrawn,
            totalWeight: version.totalWeight,
            pointsWeight: version.pointsWeight
        });
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
        return root != 0 && MerkleProofLib.verifyCalldata(proof, root, member.ofMember());
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
                    content.purposes,
                    keccak256(content.manifestCid)
                )
            )
        );
    }

    /// @notice On-chain JSON and SVG.
    function tokenURI(uint256 ipId) public view override returns (string memory) {
        _requireOwned(ipId);
        Dataset storage dataset = _datasets[ipId];
        if (dataset.provider != address(0)) {
            uint32 number = dataset.latestVersion;
            return RENDERER.datasetURI(ipId, dataset.name, dataset.provider, number, _versions[ipId][number]);
        }
        Contribution storage contribution = _contributions[ipId];
        return RENDERER.contributionURI(ipId, contribution.provider, contribution.number, contribution.dataId);
    }

    /// @inheritdoc IERC7572
    function contractURI() external view returns (string memory) {
        return RENDERER.collectionURI(
            name(),
            symbol(),
            "Datasets and single contributions, registered with proofs. The tokens never change hands."
        );
    }

    /// @inheritdoc IERC5192
    function locked(uint256 ipId) external view returns (bool) {
        _requireOwned(ipId);
        return true;
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, IERC165) returns (bool) {
        return interfaceId == type(IIPRegistry).interfaceId || interfaceId == IERC4906_ID
            || interfaceId == type(IERC5192).interfaceId || interfaceId == type(IERC7572).interfaceId
            || super.supportsInterface(interfaceId);
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
        require(signature.isBy(attestor, digest), AttestationInvalid(attestor, digest));

        _datasets[ipId].latestVersion = version;
        _versions[ipId][version] = Version({
            root: content.root,
            totalWeight: content.totalWeight,
            pointsWeight: content.pointsWeight,
            memberCount: content.memberCount,
            registeredAt: uint64(block.timestamp),
            purposes: content.purposes,
            withdrawn: false
        });
        emit VersionRegistered(
            ipId,
            version,
            content.root,
            content.memberCount,
            content.totalWeight,
            content.pointsWeight,
            content.purposes,
            content.manifestCid,
            attestor
        );
    }

    function _isWellFormed(VersionContent calldata content) private pure returns (bool) {
        uint256 cidLength = content.manifestCid.length;
        return content.root != 0 && content.memberCount > 0 && content.totalWeight > 0
            && content.totalWeight <= WEIGHT_MAX && content.pointsWeight <= content.totalWeight && cidLength > 0
            && cidLength <= CID_LENGTH_MAX;
    }

    /// @dev Minted once, never moved: what a token stands for follows its provider or payee, not its holder.
    function _update(address to, uint256 ipId, address auth) internal override returns (address from) {
        from = super._update(to, ipId, auth);
        require(from == address(0), Soulbound(ipId));
    }
}
