// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Member} from "./IIPRegistry.sol";
import {Authorization, Permit} from "./IRewardPool.sol";

/// @notice What is offered for a dataset; a licence keeps the terms that it was sold under.
struct Terms {
    /// Payment-token units; the token is the provider's.
    uint128 price;
    /// Seconds from the sale.
    uint64 duration;
    /// The bits of Consent.purposes.
    uint32 purposes;
    uint32 seats;
    /// The members' part of the price in basis points; the rest is the provider's.
    uint16 contributorBps;
    bool transferable;
    /// A term of its own: whether models may be trained on the data; needs the purpose train or fine-tune.
    bool aiTraining;
    /// ERC-2981: the provider's part of a resale, in basis points; 0 where the licence is not transferable.
    uint16 resaleBps;
    /// SHA-256 of the legal text at `legalUri`.
    bytes32 legalHash;
    /// At most 256 bytes.
    string legalUri;
}

/// @notice A licence in readable fields.
struct LicenseView {
    bool active;
    /// "active", "expired" or "revoked".
    string status;
    address holder;
    uint256 ipId;
    uint32 version;
    uint64 offerId;
    uint64 startsAt;
    uint64 endsAt;
    uint128 paid;
    string revocationCause;
    Terms terms;
}

/// @notice One member's royalties to claim, as in `claimRoyalty`.
struct RoyaltyClaim {
    uint256 ipId;
    uint32 version;
    Member member;
    bytes32[] proof;
}

/// @title Licences as ERC-721, their sale, and the members' royalties.
interface ILicenseRegistry {
    event OfferPublished(uint64 indexed offerId, uint256 indexed ipId, Terms terms);
    event OfferClosed(uint64 indexed offerId);
    event LicenseSold(
        uint256 indexed licenseId,
        uint256 indexed ipId,
        uint32 indexed version,
        uint64 offerId,
        address buyer,
        uint128 price,
        uint128 providerShare,
        uint128 pointsShare,
        uint128 walletShare,
        uint64 startsAt,
        uint64 endsAt
    );
    event LicenseRevoked(uint256 indexed licenseId, string cause);
    event RoyaltyClaimed(
        uint256 indexed ipId, uint32 indexed version, address indexed payee, bytes16 dataId, uint128 amount
    );

    error OnlyProvider(address provider, address caller);
    error DatasetUnknown(uint256 ipId);
    error TermsInvalid(string field);
    error TextTooLong(uint256 length, uint256 longest);
    error OfferUnknown(uint64 offerId);
    error OfferIsClosed(uint64 offerId);
    error VersionNotForSale(uint256 ipId, uint32 version, uint32 latest);
    error VersionHasWithdrawnMember(uint256 ipId, uint32 version);
    error PaymentBelowPrice(uint128 price, uint128 payment);
    error AmountReceivedDiffers(uint256 expected, uint256 received);
    error RecipientZero();
    error LicenseUnknown(uint256 licenseId);
    error AlreadyRevoked(uint256 licenseId);
    error NotTransferable(uint256 licenseId);
    error MemberUnknown(uint256 ipId, uint32 version, bytes16 dataId);
    /// The offer allows purposes that not all members consented to.
    error PurposesNotConsented(uint32 offered, uint32 consented);
    /// The version's members with a payee claim more weight together than the version has for them: this one asks for more than is left.
    error WeightsExceeded(uint256 ipId, uint32 version, uint96 unprovenWeight);
    error PaidInPoints(bytes16 dataId);
    error NothingToClaim(bytes16 dataId);

    /// @notice Offers the newest version of a dataset on these terms; only its provider.
    function publishOffer(uint256 ipId, Terms calldata terms) external returns (uint64 offerId);

    /// @notice Ends an offer; licences sold under it stay.
    function closeOffer(uint64 offerId) external;

    /// @notice Buys a licence with an allowance given before.
    /// @param version Must be the dataset's newest, so that a buyer gets what it looked at.
    /// @param payment What the buyer agreed to pay; below the price it is refused, above it only the price is taken.
    function buy(uint64 offerId, uint32 version, uint128 payment, address recipient)
        external
        returns (uint256 licenseId);

    /// @notice Buys a licence with an EIP-2612 permit over `payment`.
    function buyWithPermit(uint64 offerId, uint32 version, uint128 payment, address recipient, Permit calldata permit)
        external
        returns (uint256 licenseId);

    /// @notice Buys a licence with an EIP-3009 authorisation of `buyer` over exactly the price; anyone may send it.
    /// The nonce's hash is keccak256(abi.encode(keccak256("buy"), offerId, version, recipient, salt)).
    function buyWithAuthorization(
        uint64 offerId,
        uint32 version,
        address recipient,
        address buyer,
        Authorization calldata authorization
    ) external returns (uint256 licenseId);

    /// @notice Stops and resumes sales, and nothing else; only for the authority's role.
    function pause() external;
    function unpause() external;

    /// @notice Ends a licence for a recorded cause of at most 256 bytes; only the dataset's provider.
    function revoke(uint256 licenseId, string calldata cause) external;

    /// @notice Pays what is due to a member's payee; anyone may send it.
    /// @param proof Of the member in the version; read at the member's first claim only, and may be empty later.
    function claimRoyalty(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        external
        returns (uint96 amount);

    /// @notice Pays many; neighbours with one payee and one token share a transfer. Where nothing is due, nothing is paid;
    /// anything that is wrong reverts all.
    function claimRoyalties(RoyaltyClaim[] calldata claims) external;

    /// @notice What a licence says now.
    function verify(uint256 licenseId) external view returns (LicenseView memory);

    function offerOf(uint64 offerId) external view returns (uint256 ipId, bool open, Terms memory terms);
    function licenseCount() external view returns (uint128);

    /// @notice Wallet royalties paid in for a version, per unit of weight, times 2^128.
    function accumulatorOf(uint256 ipId, uint32 version) external view returns (uint256);

    /// @notice Payment-token units already claimed for a member of a version.
    /// @param leaf IIPRegistry.memberLeafOf(member).
    function royaltyClaimedOf(uint256 ipId, uint32 version, bytes32 leaf) external view returns (uint96);
}
