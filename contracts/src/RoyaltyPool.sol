// SPDX-License-Identifier: MIT OR Apache-2.0
// Splits the wallet part of each sale by weight with one accumulator a dataset version, and pays members in O(1).
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IIPRegistry, Member, Version} from "./interfaces/IIPRegistry.sol";
import {ILicenseRegistry} from "./interfaces/ILicenseRegistry.sol";
import {IProvenanceLog} from "./interfaces/IProvenanceLog.sol";

/// @dev What is paid for one version never exceeds what its sales brought in: each sale adds
/// floor(share · 2^128 / walletWeight) to the accumulator, a member gets floor(weight · accumulator / 2^128), and the
/// weights proven against a version never exceed its walletWeight, whatever its attestor signed.
abstract contract RoyaltyPool is ILicenseRegistry, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    uint256 private constant ONE = 1 << 128;

    IProvenanceLog internal immutable LOG;
    IIPRegistry internal immutable IP_REGISTRY;

    struct VersionRoyalties {
        /// Units per unit of weight, times 2^128.
        uint256 accumulator;
        /// Sum of the weights of the members that have claimed.
        uint128 provenWeight;
    }

    struct MemberRoyalties {
        /// 0 until the member's first claim.
        address payee;
        uint96 weight;
        uint128 claimed;
    }

    /* STORAGE */

    mapping(uint256 ipId => mapping(uint32 version => VersionRoyalties)) private _versions;
    mapping(uint256 ipId => mapping(uint32 version => mapping(bytes16 dataId => MemberRoyalties))) private _members;

    constructor(IProvenanceLog log, IIPRegistry ipRegistry) {
        LOG = log;
        IP_REGISTRY = ipRegistry;
    }

    /* CLAIMS */

    /// @inheritdoc ILicenseRegistry
    function claimRoyalty(uint256 ipId, uint32 version, Member calldata member, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint128 amount)
    {
        require(member.payee != address(0), PaidInPoints(member.dataId));
        require(IP_REGISTRY.isMember(ipId, version, member, proof), MemberUnknown(ipId, version, member.dataId));
        MemberRoyalties storage proven = _members[ipId][version][member.dataId];
        if (proven.payee == address(0)) {
            _admit(ipId, version, member);
            proven.payee = member.payee;
            proven.weight = member.weight;
        } else {
            // A version may name a dataId once; a second leaf for it gets nothing.
            require(
                proven.payee == member.payee && proven.weight == member.weight,
                MemberUnknown(ipId, version, member.dataId)
            );
        }
        return _pay(ipId, version, member.dataId);
    }

    /// @inheritdoc ILicenseRegistry
    function claimRoyaltyAgain(uint256 ipId, uint32 version, bytes16 dataId)
        external
        nonReentrant
        returns (uint128 amount)
    {
        require(_members[ipId][version][dataId].payee != address(0), MemberNotProven(ipId, version, dataId));
        return _pay(ipId, version, dataId);
    }

    /* VIEWS */

    /// @inheritdoc ILicenseRegistry
    function accumulatorOf(uint256 ipId, uint32 version) external view returns (uint256) {
        return _versions[ipId][version].accumulator;
    }

    /// @inheritdoc ILicenseRegistry
    function royaltyClaimedOf(uint256 ipId, uint32 version, bytes16 dataId) external view returns (uint128) {
        return _members[ipId][version][dataId].claimed;
    }

    /* INTERNAL */

    /// @dev Credits a sale's wallet share to the members with a payee; `walletWeight` is not 0.
    function _accrue(uint256 ipId, uint32 version, uint128 walletShare, uint128 walletWeight) internal {
        _versions[ipId][version].accumulator += (uint256(walletShare) << 128) / walletWeight;
    }

    function _admit(uint256 ipId, uint32 version, Member calldata member) private {
        Version memory content = IP_REGISTRY.versionOf(ipId, version);
        uint256 walletWeight = content.totalWeight - content.pointsWeight;
        uint256 provenWeight = uint256(_versions[ipId][version].provenWeight) + member.weight;
        require(provenWeight <= walletWeight, WeightsExceeded(ipId, version, walletWeight));
        _versions[ipId][version].provenWeight = provenWeight.toUint128();
    }

    function _pay(uint256 ipId, uint32 version, bytes16 dataId) private returns (uint128 amount) {
        MemberRoyalties storage member = _members[ipId][version][dataId];
        address payee = member.payee;
        uint128 total = Math.mulDiv(member.weight, _versions[ipId][version].accumulator, ONE).toUint128();
        amount = total - member.claimed;
        require(amount > 0, NothingToClaim(dataId));

        member.claimed = total;
        emit RoyaltyClaimed(ipId, version, payee, dataId, amount);
        IERC20(LOG.providerOf(IP_REGISTRY.providerOf(ipId)).token).safeTransfer(payee, amount);
    }
}
