// SPDX-License-Identifier: MIT OR Apache-2.0
// Registers providers and anchors their attested batches of provenance events, one gapless sequence a provider.
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IProvenanceLog, Batch, Provider, ProvenanceEvent, TaskDebit} from "./interfaces/IProvenanceLog.sol";
import {Leaves} from "./Leaves.sol";
import {RewardPool} from "./RewardPool.sol";

contract ProvenanceLog is IProvenanceLog, EIP712 {
    using Leaves for ProvenanceEvent;

    /* CONSTANTS */

    bytes32 private constant TASK_DEBIT_TYPEHASH = keccak256("TaskDebit(uint64 taskId,uint128 amount)");
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "Batch(address provider,uint64 number,bytes32 root,uint32 eventCount,uint128 pointsTotal,uint128 walletTotal,TaskDebit[] debits,bytes manifestCid)TaskDebit(uint64 taskId,uint128 amount)"
    );
    uint256 private constant CID_LENGTH_MAX = 64;
    uint256 private constant NAME_LENGTH_MIN = 2;
    uint256 private constant NAME_LENGTH_MAX = 32;

    RewardPool private immutable REWARD_POOL;

    /* STORAGE */

    mapping(address provider => Provider) private _providers;
    mapping(string name => address provider) private _providersByName;
    mapping(address provider => mapping(uint64 number => bytes32 root)) private _roots;

    constructor() EIP712("Tidemark ProvenanceLog", "1") {
        REWARD_POOL = new RewardPool(this);
    }

    /* PROVIDERS */

    /// @inheritdoc IProvenanceLog
    function registerProvider(string calldata name, address attestor, address pointsTreasury, address token) external {
        require(_isName(name), NameInvalid(name));
        require(attestor != address(0) && pointsTreasury != address(0) && token != address(0), AddressZero());
        require(_providers[msg.sender].attestor == address(0), ProviderExists(msg.sender));
        require(_providersByName[name] == address(0), NameTaken(name));

        _providers[msg.sender] =
            Provider({attestor: attestor, nextBatch: 0, pointsTreasury: pointsTreasury, token: token});
        _providersByName[name] = msg.sender;
        emit ProviderRegistered(msg.sender, name, attestor, pointsTreasury, token);
    }

    /// @inheritdoc IProvenanceLog
    function setAttestor(address attestor) external {
        require(attestor != address(0), AddressZero());
        require(_providers[msg.sender].attestor != address(0), ProviderUnknown(msg.sender));

        _providers[msg.sender].attestor = attestor;
        emit AttestorChanged(msg.sender, attestor);
    }

    /* BATCHES */

    /// @inheritdoc IProvenanceLog
    function anchor(Batch calldata batch, bytes calldata signature) external {
        Provider storage provider = _providers[batch.provider];
        address attestor = provider.attestor;
        uint64 number = provider.nextBatch;
        require(attestor != address(0), ProviderUnknown(batch.provider));
        require(batch.number == number, BatchNumberUnexpected(batch.provider, number, batch.number));
        require(batch.eventCount > 0, BatchEmpty());
        require(batch.root != 0, RootZero());
        uint256 cidLength = batch.manifestCid.length;
        require(cidLength > 0 && cidLength <= CID_LENGTH_MAX, ManifestCidInvalid(cidLength));
        bytes32 digest = digestOf(batch);
        require(
            SignatureChecker.isValidSignatureNowCalldata(attestor, digest, signature),
            AttestationInvalid(attestor, digest)
        );

        provider.nextBatch = number + 1;
        _roots[batch.provider][number] = batch.root;
        emit BatchAnchored(
            batch.provider,
            number,
            batch.root,
            batch.eventCount,
            batch.pointsTotal,
            batch.walletTotal,
            batch.debits,
            batch.manifestCid,
            attestor
        );
        REWARD_POOL.settle(batch, provider.pointsTreasury, provider.token);
    }

    /// @inheritdoc IProvenanceLog
    function digestOf(Batch calldata batch) public view returns (bytes32) {
        bytes32[] memory debits = new bytes32[](batch.debits.length);
        for (uint256 i = 0; i < debits.length; ++i) {
            TaskDebit calldata debit = batch.debits[i];
            debits[i] = keccak256(abi.encode(TASK_DEBIT_TYPEHASH, debit.taskId, debit.amount));
        }
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    BATCH_TYPEHASH,
                    batch.provider,
                    batch.number,
                    batch.root,
                    batch.eventCount,
                    batch.pointsTotal,
                    batch.walletTotal,
                    keccak256(abi.encodePacked(debits)),
                    keccak256(batch.manifestCid)
                )
            )
        );
    }

    /* VIEWS */

    /// @inheritdoc IProvenanceLog
    function providerOf(address provider) external view returns (Provider memory) {
        return _providers[provider];
    }

    /// @inheritdoc IProvenanceLog
    function providerNamed(string calldata name) external view returns (address) {
        return _providersByName[name];
    }

    /// @inheritdoc IProvenanceLog
    function rootOf(address provider, uint64 number) external view returns (bytes32) {
        return _roots[provider][number];
    }

    /// @inheritdoc IProvenanceLog
    function leafOf(ProvenanceEvent calldata e) external pure returns (bytes32) {
        return e.ofEvent();
    }

    /// @inheritdoc IProvenanceLog
    function contains(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        bytes32 root = _roots[provider][number];
        return root != 0 && MerkleProof.verifyCalldata(proof, root, e.ofEvent());
    }

    /// @inheritdoc IProvenanceLog
    function rewardPool() external view returns (address) {
        return address(REWARD_POOL);
    }

    function _isName(string calldata name) private pure returns (bool) {
        bytes calldata text = bytes(name);
        if (text.length < NAME_LENGTH_MIN || text.length > NAME_LENGTH_MAX) return false;
        for (uint256 i = 0; i < text.length; ++i) {
            bytes1 c = text[i];
            if (!((c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-")) return false;
        }
        return true;
    }
}
