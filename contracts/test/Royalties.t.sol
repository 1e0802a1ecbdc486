// SPDX-License-Identifier: MIT OR Apache-2.0
// RoyaltyPool: every member gets its share to the unit, once, and a version never pays more than it took in.
pragma solidity ^0.8.28;

import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, Terms} from "../interfaces/ILicenseRegistry.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";

contract ClaimRoyaltyTest is DatasetFixture {
    uint128 private constant COST = 1000e6;
    uint256 private _ipId;
    uint64 private _offerId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
        _offerId = offer(_ipId, someTerms());
    }

    function claim(uint32 version, uint256 i) private returns (uint128) {
        return licenses.claimRoyalty(_ipId, version, _members[i], proofOf(_members, i));
    }

    function expectClaimRevert(uint32 version, uint256 i, bytes memory revertData) private {
        bytes32[] memory proof = proofOf(_members, i);
        vm.expectRevert(revertData);
        licenses.claimRoyalty(_ipId, version, _members[i], proof);
    }

    function test_RevertWhen_PaidInPoints() external {
        sell(_ipId, _offerId, COST);
        expectClaimRevert(1, 1, abi.encodeWithSelector(ILicenseRegistry.PaidInPoints.selector, _members[1].dataId));
    }

    function test_RevertWhen_TheProofIsSomebodyElses() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 2);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.MemberUnknown.selector, _ipId, 1, _members[0].dataId));
        licenses.claimRoyalty(_ipId, 1, _members[0], proof);
    }

    function test_RevertWhen_PayeeOrWeightIsChanged() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 0);
        bytes memory revertData =
            abi.encodeWithSelector(ILicenseRegistry.MemberUnknown.selector, _ipId, 1, _members[0].dataId);
        Member memory member = _members[0];
        member.payee = stranger;
        vm.expectRevert(revertData);
        licenses.claimRoyalty(_ipId, 1, member, proof);
        member = _members[0];
        member.weight += 1;
        vm.expectRevert(revertData);
        licenses.claimRoyalty(_ipId, 1, member, proof);
    }

    function test_RevertWhen_NothingWasSold() external {
        expectClaimRevert(1, 0, abi.encodeWithSelector(ILicenseRegistry.NothingToClaim.selector, _members[0].dataId));
    }

    function test_RevertWhen_NothingWasSoldSince() external {
        sell(_ipId, _offerId, COST);
        claim(1, 0);
        bytes memory revertData = abi.encodeWithSelector(ILicenseRegistry.NothingToClaim.selector, _members[0].dataId);
        expectClaimRevert(1, 0, revertData);
        vm.expectRevert(revertData);
        licenses.claimRoyaltyAgain(_ipId, 1, _members[0].dataId);
    }

    function test_RevertWhen_ClaimedAgainWithoutHavingProven() external {
        sell(_ipId, _offerId, COST);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.MemberNotProven.selector, _ipId, 1, _members[0].dataId));
        licenses.claimRoyaltyAgain(_ipId, 1, _members[0].dataId);
    }

    function test_WhenAnyoneClaims_ThePayeeIsPaid() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.RoyaltyClaimed(_ipId, 1, payee, _members[0].dataId, 210e6);
        vm.prank(buyer);
        licenses.claimRoyalty(_ipId, 1, _members[0], proof);
        assertEq(token.balanceOf(payee), 210e6);
        assertEq(licenses.royaltyClaimedOf(_ipId, 1, _members[0].dataId), 210e6);
    }

    function test_WhenClaimedAgain_OnlyTheNewSalesArePaid() external {
        sell(_ipId, _offerId, COST);
        claim(1, 0);
        sell(_ipId, _offerId, COST);
        assertEq(licenses.claimRoyaltyAgain(_ipId, 1, _members[0].dataId), 210e6);
        sell(_ipId, _offerId, COST);
        assertEq(claim(1, 0), 210e6);
        assertEq(token.balanceOf(payee), 630e6);
    }

    function test_WhenAMemberIsInTwoVersions_EachPaysItsOwnSales() external {
        sell(_ipId, _offerId, COST);
        assertEq(addVersion(_ipId, contentOf(_members)), 2);
        expectClaimRevert(2, 0, abi.encodeWithSelector(ILicenseRegistry.NothingToClaim.selector, _members[0].dataId));
        sell(_ipId, _offerId, COST);
        assertEq(claim(1, 0), 210e6);
        assertEq(claim(2, 0), 210e6);
        assertEq(claim(1, 2), 140e6);
        assertEq(claim(2, 2), 140e6);
        assertEq(token.balanceOf(address(licenses)), 0);
    }

    /// A version that names a dataId twice: the first to prove it is the only one paid.
    function test_RevertWhen_ADataIdIsProvenWithAnotherLeaf() external {
        _members[2].dataId = _members[0].dataId;
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        claim(2, 0);
        expectClaimRevert(
            2, 2, abi.encodeWithSelector(ILicenseRegistry.MemberUnknown.selector, _ipId, 2, _members[2].dataId)
        );
    }

    /// An attestor that signs a total below its members' weights can't pay them out of other versions.
    function test_RevertWhen_ABadVersionsWeightsExceedItsTotal() external {
        sell(_ipId, _offerId, COST);
        VersionContent memory content = contentOf(_members);
        content.totalWeight = 49;
        content.pointsWeight = 0;
        addVersion(_ipId, content);
        sell(_ipId, _offerId, COST);
        claim(2, 0);
        expectClaimRevert(2, 2, abi.encodeWithSelector(ILicenseRegistry.WeightsExceeded.selector, _ipId, 2, 49));
        assertEq(claim(1, 0) + claim(1, 2), 350e6);
    }

    /// Random members, prices and claim times: each total is within a unit a sale of the exact share, never above it,
    /// and everything the buyers paid is accounted for.
    function testFuzz_WhenManySalesAreSplit(uint256 seed, uint8 size, uint8 saleCount) external {
        delete _members;
        uint256 count = bound(size, 1, 12);
        uint256 sales = bound(saleCount, 1, 6);
        for (uint256 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            address to = seed % 3 == 0 ? address(0) : address(uint160(1000 + i));
            _members.push(aMember(i, to, uint96(1 + (seed >> 8) % (1 << (seed % 96)))));
        }
        VersionContent memory content = contentOf(_members);
        addVersion(_ipId, content);
        uint256 walletWeight = content.totalWeight - content.pointsWeight;

        uint256 kept = 0;
        for (uint256 sale = 0; sale < sales; ++sale) {
            seed = uint256(keccak256(abi.encode(seed)));
            kept += sellAt(uint128(bound(seed, 1, 1e30)), uint16(bound(seed >> 128, 0, 10_000)));
            claimSome(seed, sale + 1 == sales);
        }

        uint256 paid = 0;
        for (uint256 i = 0; i < count; ++i) {
            uint256 claimed = licenses.royaltyClaimedOf(_ipId, 2, _members[i].dataId);
            paid += claimed;
            if (_members[i].payee == address(0)) {
                assertEq(claimed, 0);
                continue;
            }
            // claimed ≤ exact ≤ claimed + sales, where exact = kept · weight / walletWeight.
            assertLe(claimed * walletWeight, kept * _members[i].weight);
            assertGe((claimed + sales) * walletWeight, kept * _members[i].weight);
        }
        assertLe(paid, kept);
        assertEq(token.balanceOf(address(licenses)), kept - paid);
    }

    /// @dev Sells once on new terms; returns what stayed for the wallets.
    function sellAt(uint128 price, uint16 contributorBps) private returns (uint256) {
        Terms memory terms = someTerms();
        terms.price = price;
        terms.contributorBps = contributorBps;
        uint256 before = token.balanceOf(address(licenses));
        uint256 others = token.balanceOf(provider) + token.balanceOf(address(treasury));
        sell(_ipId, offer(_ipId, terms), price);
        uint256 kept = token.balanceOf(address(licenses)) - before;
        others = token.balanceOf(provider) + token.balanceOf(address(treasury)) - others;
        assertEq(kept + others, price);
        return kept;
    }

    /// @dev Claims for random members, or for all.
    function claimSome(uint256 seed, bool all) private {
        for (uint256 i = 0; i < _members.length; ++i) {
            Member memory member = _members[i];
            if (member.payee == address(0) || (!all && (seed >> i) & 1 == 0)) continue;
            uint256 due = member.weight * licenses.accumulatorOf(_ipId, 2) >> 128;
            if (due > licenses.royaltyClaimedOf(_ipId, 2, member.dataId)) claim(2, i);
        }
    }
}
