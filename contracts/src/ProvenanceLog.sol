// SPDX-License-Identifier: MIT OR Apache-2.0
// Registers providers and anchors their attested batches of provenance events, one gapless sequence a provider.
pragma solidity ^0.8.28;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ERC165} from "@openzeppelin/contracts/utils/introspection/ERC165.sol";
import {MerkleProofLib} from "solady/src/utils/MerkleProofLib.sol";
import {IPointsTreasury} from "../interfaces/IPointsTreasury.sol";
import {IProvenanceLog, Batch, Provider, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {Disputes} from "./Disputes.sol";
import {Leaves} from "./Leaves.sol";
import {RewardPool} from "./RewardPool.sol";
import {Signatures} from "./Signatures.sol";

contract ProvenanceLog is IProvenanceLog, RewardPool, AccessManaged, EIP712, ERC165, Multicall, Pausable {
    using Signatures for bytes;
    using Leaves for ProvenanceEvent;

    /* CONSTANTS */

    bytes32 private constant TASK_DEBIT_TYPEHASH = keccak256("TaskDebit(uint64 taskId,uint128 amount)");
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "Batch(address provider,uint64 number,bytes32 root,uint32 eventCount,uint128 pointsTotal,uint128 walletTotal,TaskDebit[] debits,bytes manifestCid)TaskDebit(uint64 taskId,uint128 amount)"
    );
    uint256 private constant CID_LENGTH_MAX = 64;
    uint256 private constant NAME_LENGTH_MIN = 2;
    uint256 private constant NAME_LENGTH_MAX = 32;
    uint32 private constant CHALLENGE_WINDOW_MAX = 30 days;

    Disputes private immutable DISPUTES;

    /* STORAGE */

    mapping(string name => address provider) private _providersByName;

    /// @param authority_ An AccessManager: who may pause, and who rules on disputes.
    constructor(address authority_) AccessManaged(authority_) EIP712("Tidemark ProvenanceLog", "1") {
        DISPUTES = new Disputes(this, authority_);
    }

    /* PROVIDERS */

    /// @inheritdoc IProvenanceLog
    function registerProvider(
        string calldata name,
        address attestor,
        address pointsTreasury,
        address token,
        uint32 challengeWindow
    ) external {
        require(_isName(name), NameInvalid(name));
        require(attestor != address(0) && pointsTreasury != address(0) && token != address(0), AddressZero());
        require(challengeWindow <= CHALLENGE_WINDOW_MAX, ChallengeWindowTooLong(challengeWindow, CHALLENGE_WINDOW_MAX));
        require(_providers[msg.sender].attestor == address(0), ProviderExists(msg.sender));
        require(_providersByName[name] == address(0), NameTaken(name));
        IPointsTreasury treasury = IPointsTreasury(pointsTreasury);
        require(
            treasury.log() == address(this) && treasury.provider() == msg.sender && treasury.token() == token,
            TreasuryMismatch(pointsTreasury)
        );

        _providers[msg.sender] = Provider({
            attestor: attestor,
            nextBatch: 0,
            challengeWindow: challengeWindow,
            pointsTreasury: pointsTreasury,
            pointsAccrued: 0,
            token: token
        });
        _providersByName[name] = msg.sender;
        emit ProviderRegistered(msg.sender, name, attestor, pointsTreasury, token);
        emit ChallengeWindowChanged(msg.sender, challengeWindow);
    }

    /// @inheritdoc IProvenanceLog
    function setAttestor(address attestor) external {
        require(attestor != address(0), AddressZero());
        require(_providers[msg.sender].attestor != address(0), ProviderUnknown(msg.sender));

        _providers[msg.sender].attestor = attestor;
        emit AttestorChanged(msg.sender, attestor);
    }

    /// @inheritdoc IProvenanceLog
    function setChallengeWindow(uint32 challengeWindow) external {
        require(challengeWindow <= CHALLENGE_WINDOW_MAX, ChallengeWindowTooLong(challengeWindow, CHALLENGE_WINDOW_MAX));
        require(_providers[msg.sender].attestor != address(0), ProviderUnknown(msg.sender));

        _providers[msg.sender].challengeWindow = challengeWindow;
        emit ChallengeWindowChanged(msg.sender, challengeWindow);
    }

    /* BATCHES */

    /// @inheritdoc IProvenanceLog
    function anchor(Batch calldata batch, bytes calldata signature) external whenNotPaused {
        Provider storage provider = _providers[batch.provider];
        (address attestor, uint64 number, uint32 challengeWindow) =
            (provider.attestor, provider.nextBatch, provider.challengeWindow);
        require(attestor != address(0), ProviderUnknown(batch.provider));
        require(batch.number == number, BatchNumberUnexpected(batch.provider, number, batch.number));
        require(batch.eventCount > 0, BatchEmpty());
        require(batch.root != 0, RootZero());
        uint256 cidLength = batch.manifestCid.length;
        require(cidLength > 0 && cidLength <= CID_LENGTH_MAX, ManifestCidInvalid(cidLength));
        bytes32 digest = digestOf(batch);
        require(signature.isBy(attestor, digest), AttestationInvalid(attestor, digest));

        provider.nextBatch = number + 1;
        BatchRecord storage record = _batches[batch.provider][number];
        uint64 challengeUntil = uint64(block.timestamp) + challengeWindow;
        record.root = batch.root;
        (record.left, record.challengeUntil) = (batch.walletTotal, challengeUntil);
        _settle(batch);
        _emitAnchored(batch, attestor, challengeUntil);
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

    /* AUTHORITY */

    /// @inheritdoc IProvenanceLog
    function pause() external restricted {
        _pause();
    }

    /// @inheritdoc IProvenanceLog
    function unpause() external restricted {
        _unpause();
    }

    /* VIEWS */

    /// @inheritdoc IProvenanceLog
    function providerOf(address provider) external view returns (Provider memory) {
        return _providers[provider];
    }

    /// @inheritdoc IProvenanceLog
    function settlementOf(address provider) external view returns (address token, address pointsTreasury) {
        return (_providers[provider].token, _providers[provider].pointsTreasury);
    }

    /// @inheritdoc IProvenanceLog
    function providerNamed(string calldata name) external view returns (address) {
        return _providersByName[name];
    }

    /// @inheritdoc IProvenanceLog
    function rootOf(address provider, uint64 number) external view returns (bytes32) {
        return _batches[provider][number].root;
    }

    /// @inheritdoc IProvenanceLog
    function challengeUntilOf(address provider, uint64 number) external view returns (uint64) {
        return _batches[provider][number].challengeUntil;
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
        bytes32 root = _batches[provider][number].root;
        return root != 0 && MerkleProofLib.verifyCalldata(proof, root, e.ofEvent());
    }

    /// @inheritdoc IProvenanceLog
    function disputes() external view returns (address) {
        return address(DISPUTES);
    }

    /// @inheritdoc ERC165
    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == type(IProvenanceLog).interfaceId || interfaceId == type(IRewardPool).interfaceId
            || super.supportsInterface(interfaceId);
    }

    /* INTERNAL */

    function _emitAnchored(Batch calldata batch, address attestor, uint64 challengeUntil) private {
        emit BatchAnchored(
            batch.provider,
            batch.number,
            batch.root,
            batch.eventCount,
            batch.pointsTotal,
            batch.walletTotal,
            batch.debits,
            batch.manifestCid,
            attestor,
            challengeUntil
        );
    }

    /// @inheritdoc RewardPool
    function _onlyDisputes() internal view override {
        require(msg.sender == address(DISPUTES), OnlyDisputes(msg.sender));
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
