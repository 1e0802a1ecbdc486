// SPDX-License-Identifier: MIT OR Apache-2.0
// Symbolic proofs about sales and royalties: a price is split without loss, and members get at most what came in.
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Member, VersionContent} from "../../interfaces/IIPRegistry.sol";
import {Terms} from "../../interfaces/ILicenseRegistry.sol";
import {IRenderer} from "../../interfaces/IRenderer.sol";
import {ConsentRegistry} from "../../src/ConsentRegistry.sol";
import {IPRegistry} from "../../src/IPRegistry.sol";
import {LicenseRegistry} from "../../src/LicenseRegistry.sol";
import {Proof} from "./Proof.sol";

interface Storage {
    function load(address target, bytes32 slot) external view returns (bytes32);
    function store(address target, bytes32 slot, bytes32 value) external;
}

contract LicencesProofs is Proof {
    address private constant BUYER = address(0xb07e5);
    /// Of RoyaltyPool._versions, as `forge inspect LicenseRegistry storageLayout` has it.
    uint256 private constant VERSIONS_SLOT = 6;
    Storage private constant storage_ = Storage(address(vm));

    IPRegistry private ips;
    LicenseRegistry private licenses;
    uint256 private ipId;

    /// @dev No proof asks for a page, so there is no renderer.
    function setUp() public override {
        super.setUp();
        ips = new IPRegistry(log, new ConsentRegistry(), IRenderer(address(0)));
        licenses = new LicenseRegistry(log, ips, IRenderer(address(0)), address(authority));
        ipId = ips.datasetIdOf(PROVIDER, "voices");
    }

    function register(bytes32 root, uint128 totalWeight, uint128 pointsWeight, uint32 purposes) private {
        VersionContent memory content = VersionContent({
            root: root,
            memberCount: 1,
            totalWeight: totalWeight,
            pointsWeight: pointsWeight,
            purposes: purposes,
            manifestCid: CID
        });
        vm.prank(PROVIDER);
        ips.registerDataset("voices", content, "");
    }

    function offer(uint128 price, uint16 contributorBps, uint32 purposes) private returns (uint64) {
        Terms memory terms;
        (terms.price, terms.contributorBps, terms.purposes) = (price, contributorBps, purposes);
        (terms.duration, terms.seats) = (365 days, 1);
        vm.prank(PROVIDER);
        return licenses.publishOffer(ipId, terms);
    }

    function sell(uint64 offerId, uint128 price) private returns (bool) {
        give(BUYER, address(licenses), price);
        return tried(BUYER, address(licenses), abi.encodeCall(licenses.buy, (offerId, 1, price, BUYER)));
    }

    /// @dev What a claim of the member pays; 0 where it is refused.
    function claimed(Member memory member) private returns (uint256) {
        uint256 before = token.balanceOf(address(licenses));
        tried(BUYER, address(licenses), abi.encodeCall(licenses.claimRoyalty, (ipId, 1, member, noProof())));
        return before - token.balanceOf(address(licenses));
    }

    /// @dev Where RoyaltyPool keeps the royalties of the version: that they are read back shows that it is the place.
    function royaltiesSlot() private view returns (uint256) {
        return uint256(keccak256(abi.encode(uint256(1), keccak256(abi.encode(ipId, VERSIONS_SLOT)))));
    }

    /// @dev Any state that sales and claims before may have left.
    function setRoyalties(uint256 accumulator, uint96 unproven) private {
        storage_.store(address(licenses), bytes32(royaltiesSlot()), bytes32(accumulator));
        uint256 packed = uint256(unproven) << 160 | uint160(address(token));
        storage_.store(address(licenses), bytes32(royaltiesSlot() + 1), bytes32(packed));
        assert(licenses.accumulatorOf(ipId, 1) == accumulator);
    }

    function unprovenWeight() private view returns (uint256) {
        return uint256(storage_.load(address(licenses), bytes32(royaltiesSlot() + 1))) >> 160;
    }

    /// @dev P14: for every price, share and weights the sale goes through, its three parts sum to the price, and the
    /// provider's part is no less than its share.
    function check_PartsOfASaleSumToItsPrice(uint128 price, uint16 bps, uint96 totalWeight, uint96 pointsWeight)
        external
    {
        vm.assume(price > 0 && bps <= 10_000 && totalWeight > 0 && pointsWeight <= totalWeight);
        // What solvers find out about the products alone, and not in the middle of a sale.
        unchecked {
            uint256 pot = uint256(price) * bps / 10_000;
            assert(pot <= price);
            if (pointsWeight == totalWeight) assert(pot * pointsWeight / totalWeight == pot);
        }
        register("root", totalWeight, pointsWeight, 1);
        assert(sell(offer(price, bps, 1), price));

        uint256 shared = token.balanceOf(address(treasury)) + token.balanceOf(address(licenses));
        assert(token.balanceOf(PROVIDER) + shared == price);
        assert(token.balanceOf(BUYER) == 0);
        if (bps == 0) assert(shared == 0);
        if (pointsWeight == 0) assert(token.balanceOf(address(treasury)) == 0);
        if (pointsWeight == totalWeight) assert(token.balanceOf(address(licenses)) == 0);
    }

    /// @dev P6: each sale adds no more to the accumulator than it brought in: increase · weight ≤ wallet share · 2^128, from
    /// any accumulator. All goes to wallets here; the share is any number then, as it is with points.
    function check_SaleBacksItsAccumulator(uint256 accumulator, uint128 price, uint96 weight) external {
        vm.assume(accumulator > 0 && accumulator >> 250 == 0 && price > 0 && weight > 0);
        register("root", weight, 0, 1);
        setRoyalties(accumulator, weight);
        bool sold = sell(offer(price, 10_000, 1), price);
        // An accumulator that is full refuses a sale, and only then is one refused.
        assert(sold == ((uint256(price) << 128) / weight <= type(uint256).max - accumulator));
        if (!sold) return;
        assert(token.balanceOf(address(licenses)) == price);
        unchecked {
            uint256 increase = licenses.accumulatorOf(ipId, 1) - accumulator;
            assert(increase * weight <= uint256(price) << 128);
        }
    }

    /// @dev P6, P7: with accumulator · weight ≤ paid in · 2^128, a member is paid floor(accumulator · weight / 2^128), which
    /// is at most what was paid in; and members proven so far never weigh more than the version's wallets together. The
    /// proof's range: weights below 2^32 with any accumulator, all others with an accumulator below 2^160.
    function check_MemberIsPaidItsShare(
        Member memory member,
        uint96 unproven,
        uint256 accumulator,
        uint96 paidIn,
        uint256 weight,
        uint8 width
    ) external {
        vm.assume(member.payee != address(0) && member.payee != address(licenses));
        // Cases that show solvers by the widths that the product fits into a word.
        if (width == 0) member.weight = 0;
        else if (width == 1) (member.weight, accumulator) = (uint32(weight), uint224(accumulator));
        else (member.weight, accumulator) = (uint96(weight), uint160(accumulator));
        vm.assume(accumulator > 0);
        (uint256 high, uint256 product) = Math.mul512(member.weight, accumulator);
        assert(high == 0);
        vm.assume(product <= uint256(paidIn) << 128);
        register(ips.memberLeafOf(member), 1, 0, 1);
        setRoyalties(accumulator, unproven);
        token.mint(address(licenses), paidIn);
        uint256 paid = claimed(member);

        assert(paid <= paidIn);
        if (member.weight <= unproven) {
            assert(paid == product >> 128);
            assert(paid == 0 || unprovenWeight() == unproven - member.weight);
        } else {
            assert(paid == 0);
        }
    }

    /// @dev P3: claims after each of two sales pay together what one claim at the end would, and nothing without a new sale.
    function check_LaterClaimPaysTheDifference(Member memory member, uint256 first, uint256 second) external {
        vm.assume(member.payee != address(0) && member.payee != address(licenses));
        vm.assume(first > 0 && second >> 128 == 0 && first <= second && member.weight > 0);
        register(ips.memberLeafOf(member), 1, 0, 1);
        token.mint(address(licenses), type(uint128).max);
        setRoyalties(first, member.weight);
        uint256 paid = claimed(member);
        assert(claimed(member) == 0);
        setRoyalties(second, 0);
        paid += claimed(member);

        assert(claimed(member) == 0);
        assert(licenses.royaltyClaimedOf(ipId, 1, ips.memberLeafOf(member)) == paid);
    }

    /// @dev P13: a sale goes through only for purposes that the version's members consented to.
    function check_PurposesAreConsented(uint32 consented, uint32 sold) external {
        register("root", 1, 0, consented);
        assert(sell(offer(5, 0, sold), 5) == (sold & ~consented == 0));
    }

    /// @dev P8: a licence is active from its sale until its end or its revocation, and at no other time.
    function check_LicenceIsActiveExactlyWhileItIs(uint64 later, bool revoked) external {
        register("root", 1, 0, 1);
        assert(sell(offer(5, 0, 1), 5));
        vm.assume(later < 1 << 60);
        vm.warp(NOW + later);
        if (revoked) {
            vm.prank(PROVIDER);
            licenses.revoke(1, "");
        }
        assert(licenses.verify(1).active == (!revoked && later < 365 days));
    }
}
