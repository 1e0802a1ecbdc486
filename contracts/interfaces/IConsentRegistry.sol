// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @notice What a contributor agreed to. Its EIP-712 digest is the consentId.
struct Consent {
    /// The key that signs: a wallet, or a key that the app keeps on the contributor's device.
    address contributor;
    address provider;
    /// SHA-256 of the policy text, as published here by the provider.
    bytes32 policyHash;
    /// Bit 0 train, 1 evaluate, 2 fine-tune, 3 redistribute, 4 commercial.
    uint32 purposes;
    /// Bit 0 voice, 1 photo, 2 video, 3 text, 4 metadata only.
    uint32 dataTypes;
    /// SHA-256 of the territory's name ("KR", "EEA", …); 0 is the whole world.
    bytes32 territory;
    /// Unix seconds, both inclusive.
    uint64 validFrom;
    uint64 validUntil;
    /// Random; one consent a submission keeps two records of one person apart.
    uint256 nonce;
}

/// @title Published policies, and consents that were withdrawn.
interface IConsentRegistry {
    event PolicyPublished(address indexed provider, bytes32 indexed policyHash, string version, string uri);
    event ConsentWithdrawn(bytes32 indexed consentId, address indexed provider, address by);

    error PolicyExists(address provider, bytes32 policyHash);
    error PolicyHashZero();
    error AlreadyWithdrawn(bytes32 consentId);
    error OnlyContributorOrProvider(address caller);
    error SignatureInvalid(address contributor, bytes32 digest);

    /// @notice Publishes a policy of the caller.
    /// @param policyHash SHA-256 of the text that `uri` serves.
    function publishPolicy(bytes32 policyHash, string calldata version, string calldata uri) external;

    /// @notice Withdraws a consent for good; its contributor or its provider may.
    function withdraw(Consent calldata consent) external returns (bytes32 consentId);

    /// @notice Withdraws a consent with the contributor's EIP-712 signature over Withdrawal(bytes32 consentId), carried by anyone.
    function withdrawBySignature(Consent calldata consent, bytes calldata signature)
        external
        returns (bytes32 consentId);

    /// @notice EIP-712 digest of a consent: what the contributor signs, and its id.
    function consentIdOf(Consent calldata consent) external view returns (bytes32);

    /// @notice EIP-712 digest of a withdrawal.
    function withdrawalDigestOf(bytes32 consentId) external view returns (bytes32);

    /// @notice Unix seconds of the withdrawal, 0 while the consent stands.
    function withdrawnAt(bytes32 consentId) external view returns (uint64);

    /// @notice Unix seconds at which the provider published the policy, 0 where it did not.
    function policyPublishedAt(address provider, bytes32 policyHash) external view returns (uint64);
}
