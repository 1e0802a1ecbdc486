// SPDX-License-Identifier: MIT OR Apache-2.0
// RoyaltyPool: every member gets its share to the unit, once, and a version never pays more than it took in.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, RoyaltyClaim, Terms} from "../interfaces/ILicenseRegistry.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";
import {BlocklistToken, FeeToken} from "./mocks/Tokens.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

abstract contract RoyaltyFixture is DatasetFixture {
    uint128 internal constant COST = 1000e6;
    bytes32[] internal _noProof;
    uint256 internal _ipId;
    uint64 internal _offerId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
        _offerId = offer(_ipId, someTerms());
    }

    function claim(uint32 version, uint256 i) internal returns (uint96) {
        return licenses.claimRoyalty(_ipId, version, _members[i], proofOf(_members, i));
    }

    /// @dev Once a member is proven.
    function claimAgain(uint32 version, uint256 i) internal returns (uint96) {
        return licenses.claimRoyalty(_ipId, version, _members[i], _noProof);
    }

    function claimedOf(uint32 version, uint256 i) internal view returns (uint96) {
        return licenses.royaltyClaimedOf(_ipId, version, ips.memberLeafOf(_members[i]));
    }

    function expectClaimRevert(uint32 version, uint256 i, bytes memory revertData) internal {
        bytes32[] memory proof = proofOf(_members, i);
        vm.expectRevert(revertData);
        licenses.claimRoyalty(_ipId, version, _members[i], proof);
    }

    function claimOf(uint32 version, uint256 i) internal view returns (RoyaltyClaim memory) {
        return RoyaltyClaim({ipId: _ipId, version: version, member: _members[i], proof: proofOf(_members, i)});
    }

    function unknown(uint32 version, uint256 i) internal view returns (bytes memory) {
        return abi.encodeWithSelector(ILicenseRegistry.MemberUnknown.selector, _ipId, version, _members[i].dataId);
    }

    function nothing(uint256 i) internal view returns (bytes memory) {
        return abi.encodeWithSelector(ILicenseRegistry.NothingToClaim.selector, _members[i].dataId);
    }
}

contract ClaimRoyaltyTest is RoyaltyFixture {
    using StandardMerkleTree for bytes32[];

    function test_RevertWhen_PaidInPoints() external {
        sell(_ipId, _offerId, COST);
        expectClaimRevert(1, 1, abi.encodeWithSelector(ILicenseRegistry.PaidInPoints.selector, _members[1].dataId));
    }

    function test_RevertWhen_TheVersionIsUnknown() external {
        sell(_ipId, _offerId, COST);
        expectClaimRevert(2, 0, unknown(2, 0));
    }

    function test_RevertWhen_TheProofIsSomebodyElses() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 2);
        vm.expectRevert(unknown(1, 0));
        licenses.claimRoyalty(_ipId, 1, _members[0], proof);
    }

    /// A member's first claim has to prove it, whoever else has proven.
    function test_RevertWhen_AnUnprovenMemberHasNoProof() external {
        sell(_ipId, _offerId, COST);
        claim(1, 2);
        vm.expectRevert(unknown(1, 0));
        claimAgain(1, 0);
    }

    /// Proven in one version is not proven in another.
    function test_RevertWhen_ProvenInAnotherVersionOnly() external {
        sell(_ipId, _offerId, COST);
        claim(1, 0);
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        vm.expectRevert(unknown(2, 0));
        claimAgain(2, 0);
    }

    /// P9: no field of a member can be made another's, before its proof or after.
    function test_RevertWhen_AFieldIsChanged() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 0);
        for (uint256 round = 0; round < 2; ++round) {
            for (uint256 i = 0; i < 5; ++i) {
                Member memory member = _members[0];
                if (i == 0) member.payee = buyer;
                if (i == 1) member.weight += 1;
                if (i == 2) member.dataId = ~member.dataId;
                if (i == 3) member.contributor = ~member.contributor;
                if (i == 4) member.consentId = ~member.consentId;
                vm.expectRevert(
                    abi.encodeWithSelector(ILicenseRegistry.MemberUnknown.selector, _ipId, 1, member.dataId)
                );
                licenses.claimRoyalty(_ipId, 1, member, proof);
            }
            if (round == 0) claim(1, 0);
        }
    }

    function test_RevertWhen_NothingWasSold() external {
        expectClaimRevert(1, 0, nothing(0));
    }

    /// P3
    function test_RevertWhen_NothingWasSoldSince() external {
        sell(_ipId, _offerId, COST);
        claim(1, 0);
        expectClaimRevert(1, 0, nothing(0));
        vm.expectRevert(nothing(0));
        claimAgain(1, 0);
    }

    function test_RevertWhen_TheShareRoundsToNothing() external {
        Terms memory terms = someTerms();
        (terms.price, terms.contributorBps) = (1, 10_000);
        _members.pop();
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, offer(_ipId, terms), 1);
        // One unit for 30 units of weight, which the division rounds down.
        assertEq(token.balanceOf(address(licenses)), 1);
        expectClaimRevert(2, 0, nothing(0));
        sell(_ipId, _offerId, COST);
        assertGe(claim(2, 0), 1);
    }

    function test_WhenAnyoneClaims_ThePayeeIsPaid() external {
        sell(_ipId, _offerId, COST);
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.RoyaltyClaimed(_ipId, 1, payee, _members[0].dataId, 210e6);
        vm.prank(buyer);
        assertEq(licenses.claimRoyalty(_ipId, 1, _members[0], proof), 210e6);
        assertEq(token.balanceOf(payee), 210e6);
        assertEq(claimedOf(1, 0), 210e6);
    }

    /// The proof is read once; afterwards an empty one does, and a wrong one does no harm.
    function test_WhenClaimedAgain_OnlyTheNewSalesArePaid() external {
        sell(_ipId, _offerId, COST);
        claim(1, 0);
        sell(_ipId, _offerId, COST);
        assertEq(claimAgain(1, 0), 210e6);
        sell(_ipId, _offerId, COST);
        assertEq(claim(1, 0), 210e6);
        sell(_ipId, _offerId, COST);
        bytes32[] memory wrong = proofOf(_members, 2);
        assertEq(licenses.claimRoyalty(_ipId, 1, _members[0], wrong), 210e6);
        assertEq(token.balanceOf(payee), 840e6);
        assertEq(claimedOf(1, 0), 840e6);
    }

    function test_WhenTheVersionHasOneMember_ItsRootIsItsProof() external {
        _members.pop();
        _members.pop();
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        // 700e6 / 30 units of weight is rounded down.
        assertEq(claimAgain(2, 0), 700e6 - 1);
        assertEq(token.balanceOf(address(licenses)), 1);
    }

    function test_WhenAMemberIsInTwoVersions_EachPaysItsOwnSales() external {
        sell(_ipId, _offerId, COST);
        assertEq(addVersion(_ipId, contentOf(_members)), 2);
        expectClaimRevert(2, 0, nothing(0));
        sell(_ipId, _offerId, COST);
        assertEq(claim(1, 0), 210e6);
        assertEq(claim(2, 0), 210e6);
        assertEq(claim(1, 2), 140e6);
        assertEq(claim(2, 2), 140e6);
        assertEq(token.balanceOf(address(licenses)), 0);
    }

    function test_WhenAllMembersHaveAWallet() external {
        _members[1].payee = buyer;
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        assertEq(claim(2, 0), 210e6);
        assertEq(claim(2, 1), 350e6);
        assertEq(claim(2, 2), 140e6);
        assertEq(token.balanceOf(address(licenses)), 0);
    }

    /// A version of points members never starts an accumulator.
    function test_WhenAllMembersArePaidInPoints_NothingIsClaimed() external {
        for (uint256 i = 0; i < 3; ++i) {
            _members[i].payee = address(0);
        }
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        assertEq(licenses.accumulatorOf(_ipId, 2), 0);
        expectClaimRevert(2, 0, abi.encodeWithSelector(ILicenseRegistry.PaidInPoints.selector, _members[0].dataId));
    }

    /// P9: withdrawing a consent stops later sales; what was sold before stays the member's.
    function test_WhenTheVersionIsOld_ItsRoyaltiesStay() external {
        sell(_ipId, _offerId, COST);
        addVersion(_ipId, contentOf(_members));
        vm.prank(provider);
        licenses.closeOffer(_offerId);
        assertEq(claim(1, 0), 210e6);
    }

    /// P6: a version that pays one record to two payees pays out what it took in, and no other version's money.
    function test_RevertWhen_AnAttestorSignsASecondLeafForARecord() external {
        sell(_ipId, _offerId, COST);
        VersionContent memory honest = contentOf(_members);
        Member memory twin = _members[0];
        twin.payee = buyer;
        _members.push(twin);
        VersionContent memory content = contentOf(_members);
        (content.totalWeight, content.memberCount) = (honest.totalWeight, honest.memberCount);
        addVersion(_ipId, content);
        sell(_ipId, _offerId, COST);
        assertEq(claim(2, 3), 210e6);
        assertEq(claim(2, 2), 140e6);
        // 50 units of wallet weight were sold, 50 are proven, and another sale opens none.
        sell(_ipId, _offerId, COST);
        expectClaimRevert(2, 0, abi.encodeWithSelector(ILicenseRegistry.WeightsExceeded.selector, _ipId, 2, 0));
        assertEq(claim(2, 3) + claim(2, 2), 350e6);
        _members.pop();
        assertEq(claim(1, 0) + claim(1, 2), 350e6);
        assertEq(token.balanceOf(address(licenses)), 0);
    }

    /// P6: an attestor that signs a total below its members' weights can't pay them out of other versions.
    function test_RevertWhen_ABadVersionsWeightsExceedItsTotal() external {
        sell(_ipId, _offerId, COST);
        VersionContent memory content = contentOf(_members);
        content.totalWeight = 49;
        content.pointsWeight = 0;
        addVersion(_ipId, content);
        sell(_ipId, _offerId, COST);
        claim(2, 0);
        bytes memory revertData = abi.encodeWithSelector(ILicenseRegistry.WeightsExceeded.selector, _ipId, 2, 19);
        expectClaimRevert(2, 2, revertData);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](1);
        claims[0] = claimOf(2, 2);
        vm.expectRevert(revertData);
        licenses.claimRoyalties(claims);
        assertEq(claim(1, 0) + claim(1, 2), 350e6);
    }

    /// P6: whatever weights are signed, claims of a version stay within what its sales brought in.
    function testFuzz_ABadVersionPaysAtMostItsOwn(uint96[6] memory weights, uint96 signed, uint8 sales) external {
        sell(_ipId, _offerId, COST);
        delete _members;
        for (uint256 i = 0; i < weights.length; ++i) {
            _members.push(aMember(i, payee, uint96(bound(weights[i], 0, 1000))));
        }
        VersionContent memory content = contentOf(_members);
        (content.totalWeight, content.pointsWeight) = (uint128(bound(signed, 1, 3000)), 0);
        addVersion(_ipId, content);
        uint256 count = bound(sales, 1, 3);
        for (uint256 sale = 0; sale < count; ++sale) {
            sell(_ipId, _offerId, COST);
            for (uint256 i = 0; i < weights.length; ++i) {
                try licenses.claimRoyalty(_ipId, 2, _members[i], proofOf(_members, i)) {} catch {}
            }
        }
        assertLe(token.balanceOf(payee), count * 700e6);
        uint256 claimed = 0;
        for (uint256 i = 0; i < weights.length; ++i) {
            claimed += claimedOf(2, i);
        }
        assertEq(claimed, token.balanceOf(payee));
        // The first version's money is untouched.
        assertGe(token.balanceOf(address(licenses)), 350e6);
    }

    /// @dev A version whose only member's word `position` has its highest bit set, as no ABI encoder writes it.
    function dirtyCall(uint256 position) private returns (bytes memory call) {
        Member memory member = _members[0];
        bytes memory fields = abi.encode(member);
        fields[32 * position + (position == 0 ? 31 : 0)] |= 0x80;
        VersionContent memory content = contentOf(_members);
        content.root = keccak256(bytes.concat(keccak256(fields)));
        uint32 version = addVersion(_ipId, content);
        sell(_ipId, _offerId, COST);
        // ipId, version, the member's five words, then the empty proof.
        call = bytes.concat(
            licenses.claimRoyalty.selector,
            abi.encode(_ipId, uint256(version)),
            fields,
            abi.encode(uint256(8 * 32), uint256(0))
        );
    }

    /// P6: a leaf of malformed words can't be claimed, though the attestor signed it.
    function test_RevertWhen_ALeafHasDirtyBits() external {
        uint8[3] memory positions = [0, 3, 4];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory call = dirtyCall(positions[i]);
            uint256 before = token.balanceOf(address(licenses));
            (bool ok, bytes memory returned) = address(licenses).call(call);
            assertFalse(ok);
            assertEq(returned.length, 0);
            assertEq(token.balanceOf(address(licenses)), before);
        }
    }

    /// A member's royalties of a version end at 96 bits of units, 79 billion tokens of 18 decimals.
    /// Beyond 2^96 − 1 a member gets no more, and what is below stays payable.
    function test_WhenAMembersRoyaltiesExceed96Bits_WhatIsBelowStaysPayable() external {
        _members.pop();
        _members[1].payee = payee;
        (_members[0].weight, _members[1].weight) = (1, 1);
        addVersion(_ipId, contentOf(_members));
        Terms memory terms = someTerms();
        (terms.price, terms.contributorBps) = (2 * uint128(type(uint96).max), 10_000);
        sell(_ipId, offer(_ipId, terms), terms.price);
        assertEq(claim(2, 0), type(uint96).max);
        (terms.price) = 2;
        sell(_ipId, offer(_ipId, terms), terms.price);
        expectClaimRevert(2, 0, abi.encodeWithSelector(ILicenseRegistry.NothingToClaim.selector, _members[0].dataId));
        assertEq(claim(2, 1), type(uint96).max);
    }
}

contract ClaimRoyaltiesTest is RoyaltyFixture {
    function test_WhenThereAreNone_NothingHappens() external {
        licenses.claimRoyalties(new RoyaltyClaim[](0));
    }

    /// Neighbours of one payee and token share a transfer, over versions as well.
    function test_WhenNeighboursShareAPayee_TheyShareATransfer() external {
        sell(_ipId, _offerId, COST);
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](4);
        (claims[0], claims[1]) = (claimOf(1, 0), claimOf(2, 0));
        (claims[2], claims[3]) = (claimOf(2, 2), claimOf(1, 2));
        vm.recordLogs();
        licenses.claimRoyalties(claims);
        assertEq(countLogs(address(token), IERC20.Transfer.selector), 2);
        assertEq(token.balanceOf(payee), 420e6);
        assertEq(token.balanceOf(stranger), 280e6);
        assertEq(claimedOf(1, 0), 210e6);
        assertEq(claimedOf(2, 2), 140e6);
    }

    function test_WhenPayeesAlternate_EachIsPaid() external {
        sell(_ipId, _offerId, COST);
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](4);
        (claims[0], claims[1]) = (claimOf(1, 0), claimOf(1, 2));
        (claims[2], claims[3]) = (claimOf(2, 0), claimOf(2, 2));
        vm.recordLogs();
        licenses.claimRoyalties(claims);
        assertEq(countLogs(address(token), IERC20.Transfer.selector), 4);
        assertEq(token.balanceOf(payee), 420e6);
        assertEq(token.balanceOf(stranger), 280e6);
    }

    /// One payee in two tokens gets each of them.
    function test_WhenTheTokensDiffer_EachIsPaidInItsOwn() external {
        BlocklistToken other = new BlocklistToken();
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](3);
        claims[1] = sellOther(address(other));
        sell(_ipId, _offerId, COST);
        claims[0] = claimOf(1, 0);
        addVersion(_ipId, contentOf(_members));
        sell(_ipId, _offerId, COST);
        claims[2] = claimOf(2, 0);
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 420e6);
        assertEq(other.balanceOf(payee), 210e6);
    }

    /// @dev Another provider's sale of the same members in a token of its own; the payee's claim of it.
    function sellOther(address other) private returns (RoyaltyClaim memory) {
        registerProvider(stranger, "other", attestor, other, 0);
        uint256 ipId = registerAs(stranger, "d", contentOf(_members));
        vm.prank(stranger);
        uint64 offerId = licenses.publishOffer(ipId, someTerms());
        FeeToken(other).mint(buyer, COST);
        vm.prank(buyer);
        FeeToken(other).approve(address(licenses), COST);
        vm.prank(buyer);
        licenses.buy(offerId, 1, COST, buyer);
        return RoyaltyClaim({ipId: ipId, version: 1, member: _members[0], proof: proofOf(_members, 0)});
    }

    /// Where nothing is due, nothing is paid, and the neighbours still share a transfer.
    function test_WhenNothingIsDue_ItIsSkipped() external {
        sell(_ipId, _offerId, COST);
        addVersion(_ipId, contentOf(_members));
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](4);
        // Not sold yet, due, claimed just before, and a zero payer at the end.
        (claims[0], claims[1], claims[2], claims[3]) = (claimOf(2, 0), claimOf(1, 0), claimOf(1, 0), claimOf(2, 2));
        vm.recordLogs();
        licenses.claimRoyalties(claims);
        assertEq(countLogs(address(token), IERC20.Transfer.selector), 1);
        assertEq(token.balanceOf(payee), 210e6);
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 210e6);
        assertEq(claimedOf(2, 0), 0);
    }

    /// What was not proven before a sale is not taken for proven after it.
    function test_WhenSkippedBeforeASale_TheProofIsStillNeeded() external {
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](1);
        claims[0] = claimOf(1, 0);
        licenses.claimRoyalties(claims);
        sell(_ipId, _offerId, COST);
        vm.expectRevert(unknown(1, 0));
        claimAgain(1, 0);
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 210e6);
    }

    function test_WhenProven_TheProofsMayBeEmpty() external {
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](2);
        sell(_ipId, _offerId, COST);
        (claims[0], claims[1]) = (claimOf(1, 0), claimOf(1, 2));
        licenses.claimRoyalties(claims);
        sell(_ipId, _offerId, COST);
        (claims[0].proof, claims[1].proof) = (_noProof, _noProof);
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 420e6);
        assertEq(token.balanceOf(stranger), 280e6);
    }

    /// Anything wrong reverts all.
    function test_RevertWhen_OneIsWrong() external {
        sell(_ipId, _offerId, COST);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](2);
        (claims[0], claims[1]) = (claimOf(1, 0), claimOf(1, 2));
        claims[1].proof = claims[0].proof;
        vm.expectRevert(unknown(1, 2));
        licenses.claimRoyalties(claims);
        claims[1] = claimOf(1, 1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PaidInPoints.selector, _members[1].dataId));
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 0);
    }

    /// P12: a blocked payee stops the batch it is in, not the others' claims.
    function test_RevertWhen_OnePayeeIsBlocked() external {
        BlocklistToken other = new BlocklistToken();
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](2);
        claims[0] = sellOther(address(other));
        sell(_ipId, _offerId, COST);
        claims[1] = claimOf(1, 0);
        other.setBlocked(payee, true);
        vm.expectRevert(abi.encodeWithSelector(BlocklistToken.Blocked.selector, payee));
        licenses.claimRoyalties(claims);
        assertEq(claim(1, 0), 210e6);
    }
}

contract RoyaltyShareTest is RoyaltyFixture {
    uint256 private _kept;
    uint256 private _sales;

    /// P7: random members, prices and claim times. With W the wallets' weight and K what the sales kept for them, each
    /// total is at most K · weight / W and less than one unit and 2^-32 a sale below it, in any order of sales and claims;
    /// everything the buyers paid is accounted for. All products are below 2^256, so the model is exact.
    function testFuzz_WhenManySalesAreSplit(uint256 seed, uint8 size, uint8 saleCount) external {
        delete _members;
        uint256 count = bound(size, 1, 12);
        for (uint256 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            address to = seed % 3 == 0 ? address(0) : address(uint160(1000 + i % 5));
            _members.push(aMember(i, to, uint96(1 + (seed >> 8) % (1 << (seed % 93)))));
        }
        VersionContent memory content = contentOf(_members);
        addVersion(_ipId, content);
        uint256 walletWeight = content.totalWeight - content.pointsWeight;

        uint256 steps = bound(saleCount, 1, 6);
        for (uint256 step = 0; step < steps; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            sellAt(uint128(bound(seed, 1, 1 << (1 + seed % 92))), uint16(bound(seed >> 128, 0, 10_000)), content);
            claimSome(seed, walletWeight);
        }
        claimSome(0, walletWeight);
        checkShares(walletWeight);
    }

    /// P7: two members who claim at different times have the same in the end.
    function testFuzz_WhenOneClaimsOftenAndOneOnce_TheyGetTheSame(uint64[5] memory prices) external {
        _members[0].weight = _members[2].weight;
        addVersion(_ipId, contentOf(_members));
        for (uint256 i = 0; i < prices.length; ++i) {
            Terms memory terms = someTerms();
            terms.price = uint128(1000 + uint256(prices[i]));
            sell(_ipId, offer(_ipId, terms), terms.price);
            claim(2, 0);
        }
        claim(2, 2);
        assertEq(token.balanceOf(payee), token.balanceOf(stranger));
    }

    /// @dev Sells once on new terms; counts what the definition of the split keeps for the wallets.
    function sellAt(uint128 price, uint16 bps, VersionContent memory content) private {
        Terms memory terms = someTerms();
        (terms.price, terms.contributorBps) = (price, bps);
        uint256 before = token.balanceOf(address(licenses));
        sell(_ipId, offer(_ipId, terms), price);
        uint256 pot = uint256(price) * bps / 10_000;
        uint256 kept = pot - pot * content.pointsWeight / content.totalWeight;
        assertEq(token.balanceOf(address(licenses)), before + kept);
        _kept += kept;
        ++_sales;
    }

    /// @dev Claims for random members, with and without the proof, alone and together; for all where the seed is 0.
    function claimSome(uint256 seed, uint256 walletWeight) private {
        if (walletWeight == 0) return;
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](1);
        for (uint256 i = 0; i < _members.length; ++i) {
            Member memory member = _members[i];
            if (member.payee == address(0) || (seed >> i) & 1 == 1) continue;
            if ((seed >> (i + 16)) & 1 == 1) {
                claims[0] = claimOf(2, i);
                if (claimedOf(2, i) > 0) claims[0].proof = _noProof;
                licenses.claimRoyalties(claims);
                continue;
            }
            uint256 due = member.weight * licenses.accumulatorOf(_ipId, 2) >> 128;
            if (due > claimedOf(2, i)) claim(2, i);
            else expectClaimRevert(2, i, nothing(i));
        }
    }

    function checkShares(uint256 walletWeight) private view {
        uint256 paid = 0;
        for (uint256 i = 0; i < _members.length; ++i) {
            uint256 claimed = claimedOf(2, i);
            paid += claimed;
            if (_members[i].payee == address(0)) {
                assertEq(claimed, 0);
                continue;
            }
            uint256 exact = _kept * _members[i].weight;
            assertLe(claimed * walletWeight, exact);
            assertGe(((claimed + 1) * walletWeight << 32) + _sales * walletWeight, exact << 32);
        }
        // P6, P1
        assertLe(paid, _kept);
        assertEq(token.balanceOf(address(licenses)), _kept - paid);
        uint256 received = 0;
        for (uint160 i = 0; i < 5; ++i) {
            received += token.balanceOf(address(1000 + i));
        }
        assertEq(received, paid);
    }
}
