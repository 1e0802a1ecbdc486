// SPDX-License-Identifier: MIT OR Apache-2.0
// Publishes policies by hash and records the consents that were withdrawn.
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Consent, IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {Signatures} from "./Signatures.sol";

contract ConsentRegistry is IConsentRegistry, EIP712 {
    using Signatures for bytes;

    /* CONSTANTS */

    bytes32 private constant CONSENT_TYPEHASH = keccak256(
        "Consent(address contributor,address provider,bytes32 policyHash,uint32 purposes,uint32 dataTypes,bytes32 territory,uint64 validFrom,uint64 validUntil,uint256 nonce)"
    );
    bytes32 private constant WITHDRAWAL_TYPEHASH = keccak256("Withdrawal(bytes32 consentId)");

    /* STORAGE */

    /// @inheritdoc IConsentRegistry
    mapping(bytes32 consentId => uint64 unixSeconds) public withdrawnAt;
    /// @inheritdoc IConsentRegistry
    mapping(address provider => mapping(bytes32 policyHash => uint64 unixSeconds)) public policyPublishedAt;

    constructor() EIP712("Tidemark ConsentRegistry", "1") {}

    /// @inheritdoc IConsentRegistry
    function publishPolicy(bytes32 policyHash, string calldata version, string calldata uri) external {
        require(policyHash != 0, PolicyHashZero());
        require(policyPublishedAt[msg.sender][policyHash] == 0, PolicyExists(msg.sender, policyHash));

        policyPublishedAt[msg.sender][policyHash] = uint64(block.timestamp);
        emit PolicyPublished(msg.sender, policyHash, version, uri);
    }

    /// @inheritdoc IConsentRegistry
    function withdraw(Consent calldata consent) external returns (bytes32 consentId) {
        require(
            msg.sender == consent.contributor || msg.sender == consent.provider, OnlyContributorOrProvider(msg.sender)
        );
        consentId = consentIdOf(consent);
        _withdraw(consentId, consent.provider, msg.sender);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawBySignature(Consent calldata consent, bytes calldata signature)
        external
        returns (bytes32 consentId)
    {
        consentId = consentIdOf(consent);
        bytes32 digest = withdrawalDigestOf(consentId);
        require(signature.isBy(consent.contributor, digest), SignatureInvalid(consent.contributor, digest));
        _withdraw(consentId, consent.provider, consent.contributor);
    }

    /// @inheritdoc IConsentRegistry
    function consentIdOf(Consent calldata consent) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CONSENT_TYPEHASH, consent)));
    }

    /// @inheritdoc IConsentRegistry
    function withdrawalDigestOf(bytes32 consentId) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(WITHDRAWAL_TYPEHASH, consentId)));
    }

    function _withdraw(bytes32 consentId, address provider, address by) private {
        require(withdrawnAt[consentId] == 0, AlreadyWithdrawn(consentId));

        withdrawnAt[consentId] = uint64(block.timestamp);
        emit ConsentWithdrawn(consentId, provider, by);
    }
}
