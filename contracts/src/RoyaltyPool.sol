// SPDX-License-Identifier: MIT OR Apache-2.0
// Splits the wallet part of each sale by weight with one accumulator a dataset version, and pays members in O(1).
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {MerkleProofLib} from "solady/src/utils/MerkleProofLib.sol";
import {IIPRegistry, Member} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, RoyaltyClaim} from "../interfaces/ILicenseRegistry.sol";
import {Leaves} from "./Leaves.sol";

/// @dev What is paid for one version never exceeds what its sales brought in: each sale adds
/// floor(share · 2^128 / walletWeight) to the accumulator, a member gets floor(weight · accumulator / 2^128), and the
/// weights proven against a version never exceed its walletWeight, whatever its attestor signed.
abstract contract RoyaltyPool is ILicenseRegistry, ReentrancyGuardTransient {
    using Leaves for Member;
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    uint256 private constant ONE = 1 << 128;

    IIPRegistry internal immutable IP_REGISTRY;

    struct VersionRoyalties {
        /// Units per unit of weight, times 2^128; 0 until the first sale with a wallet share.
        uint256 accumulator;
        /// Written at that first sale.
        address token;
        /// What members that have not claimed yet may weigh together.
        uint96 unprovenWeight;
    }

    struct MemberRoyalties {
        /// 0 until the member's first claim.
        address token;
        uint96 claimed;
    }

    /* STORAGE */

    mapping(uint256 ipId => mapping(uint32 version => VersionRoyalties)) private _versions;
    /// By leaf: a caller who knows the fields behind a proven leaf need not prove them again.
    mapping(uint256 ipId => mapping(uint32 version => mapping(bytes32 leaf => MemberRoyalties))) private _members;

    constructor(IIPRegistry ipRegistry) {
        IP_REGISTRY = ipRegistry;
    }

    /* CLAIMS */

    /// @inheritdoc ILicenseRegistry
    function claimRoyalty(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint96 amount)
    {
        address token;
        (token, amount) = _take(ipId, version, member, proof);
        require(amount > 0, NothingToClaim(member.dataId));
        IERC20(token).safeTransfer(member.payee, amount);
    }

    /// @inheritdoc ILicenseRegistry
    function claimRoyalties(RoyaltyClaim[] calldata claims) external nonReentrant {
        (address token, address payee) = (address(0), address(0));
        uint256 due = 0;
        for (uint256 i = 0; i < claims.length; ++i) {
            RoyaltyClaim calldata c = claims[i];
            (address itsToken, uint96 amount) = _take(c.ipId, c.version, c.member, c.proof);
            if (amount == 0) continue;
            if (due > 0 && (itsToken != token || c.member.payee != payee)) {
                IERC20(token).safeTransfer(payee, due);
                due = 0;
            }
            (token, payee) = (itsToken, c.member.payee);
            due += amount;
        }
        if (due > 0) IERC20(token).safeTransfer(payee, due);
    }

    /* VIEWS */

    /// @inheritdoc ILicenseRegistry
    function accumulatorOf(uint256 ipId, uint32 version) external view returns (uint256) {
        return _versions[ipId][version].accumulator;
    }

    /// @inheritdoc ILicenseRegistry
    function royaltyClaimedOf(uint256 ipId, uint32 version, bytes32 leaf) external view returns (uint96) {
        return _members[ipId][version][leaf].claimed;
    }

    /* INTERNAL */

    /// @dev Credits a sale's wallet share to the members with a payee; neither it nor `walletWeight`, which is the same at
    /// each sale of a version, is 0.
    function _accrue(uint256 ipId, uint32 version, IERC20 token, uint128 walletShare, uint96 walletWeight) internal {
        VersionRoyalties storage royalties = _versions[ipId][version];
        uint256 accumulator = royalties.accumulator;
        // At least 2^32 a sale, so 0 means the first one.
        if (accumulator == 0) (royalties.token, royalties.unprovenWeight) = (address(token), walletWeight);
        royalties.accumulator = accumulator + (uint256(walletShare) << 128) / walletWeight;
    }

    /// @dev Proves a member where that is not done yet, and books what is due to it.
    function _take(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        private
        returns (address token, uint96 amount)
    {
        bytes32 leaf = member.ofMember();
        VersionRoyalties storage royalties = _versions[ipId][version];
        MemberRoyalties storage record = _members[ipId][version][leaf];
        uint96 claimed;
        (token, claimed) = (record.token, record.claimed);
        if (token == address(0)) {
            require(member.payee != address(0), PaidInPoints(member.dataId));
            bytes32 root = IP_REGISTRY.versionRootOf(ipId, version);
            require(
                root != 0 && MerkleProofLib.verifyCalldata(proof, root, leaf),
                MemberUnknown(ipId, version, member.dataId)
            );
            uint96 unprovenWeight;
            (token, unprovenWeight) = (royalties.token, royalties.unprovenWeight);
            if (token == address(0)) return (token, 0);
            require(member.weight <= unprovenWeight, WeightsExceeded(ipId, version, unprovenWeight));
            royalties.unprovenWeight = unprovenWeight - member.weight;
        }
        // Beyond 2^96 − 1 units a member gets no more; what is below stays payable.
        uint256 earned = Math.mulDiv(member.weight, royalties.accumulator, ONE);
        if (earned > type(uint96).max) earned = type(uint96).max;
        uint96 total = earned.toUint96();
        amount = total - claimed;

        (record.token, record.claimed) = (token, total);
        if (amount > 0) emit RoyaltyClaimed(ipId, version, member.payee, member.dataId, amount);
    }
}
