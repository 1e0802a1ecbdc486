// SPDX-License-Identifier: MIT OR Apache-2.0
// PointsTreasury: only the operator pays out, each payout once, never more than there is, accrued points included.
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IPointsTreasury, PointsDebit} from "../interfaces/IPointsTreasury.sol";
import {Batch} from "../interfaces/IProvenanceLog.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";

contract PointsTreasuryTest is Fixture {
    function setUp() public override {
        super.setUp();
        token.mint(address(treasury), 100);
    }

    function debits(uint128 a, uint128 b) private pure returns (PointsDebit[] memory list) {
        list = new PointsDebit[](2);
        list[0] = PointsDebit({payoutId: "one", account: "alice", amount: a});
        list[1] = PointsDebit({payoutId: "two", account: "bob", amount: b});
    }

    /// @dev A batch whose points are not swept.
    function accrue(uint64 number, uint128 points) private {
        fund(sponsor, address(log), points);
        vm.prank(sponsor);
        uint64 task = log.createTask(provider, 1, uint64(NOW + 1), "terms", "ipfs://t", points);
        anchor(aPaidBatch(number, task, points, 0));
    }

    function test_RevertWhen_AnAddressIsZeroAtDeployment() external {
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AddressZero.selector));
            Deploy.pointsTreasury(
                i == 0 ? address(0) : address(log),
                i == 1 ? address(0) : provider,
                i == 2 ? address(0) : address(token),
                i == 3 ? address(0) : operator
            );
        }
    }

    function test_WhenDeployed() external {
        PointsTreasury fresh = Deploy.pointsTreasury(address(log), stranger, address(token), payee);
        assertEq(fresh.log(), address(log));
        assertEq(fresh.provider(), stranger);
        assertEq(fresh.token(), address(token));
        assertEq(fresh.operator(), payee);
        assertEq(fresh.backing(), 0);
    }

    /// P9
    function testFuzz_RevertWhen_CallerIsNotTheOperator(address caller) external {
        vm.assume(caller != operator);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyOperator.selector, caller));
        vm.prank(caller);
        treasury.redeem(debits(1, 2), payee);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyOperator.selector, provider));
        vm.prank(provider);
        treasury.redeem(debits(1, 2), payee);
    }

    /// P11: of the operator.
    function test_RevertWhen_CallerIsAFormerOperator() external {
        vm.prank(provider);
        treasury.setOperator(stranger);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyOperator.selector, operator));
        vm.prank(operator);
        treasury.redeem(debits(1, 2), payee);
        vm.prank(stranger);
        treasury.redeem(debits(1, 2), payee);
    }

    function test_RevertWhen_ToIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AddressZero.selector));
        vm.prank(operator);
        treasury.redeem(debits(1, 2), address(0));
    }

    function test_RevertWhen_ThereAreNoDebits() external {
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.DebitsEmpty.selector));
        vm.prank(operator);
        treasury.redeem(new PointsDebit[](0), payee);
    }

    function test_RevertWhen_AnAmountIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AmountZero.selector, bytes32("two")));
        vm.prank(operator);
        treasury.redeem(debits(1, 0), payee);
    }

    /// P3
    function test_RevertWhen_APayoutIsRedeemedTwice() external {
        vm.prank(operator);
        treasury.redeem(debits(1, 2), payee);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AlreadyRedeemed.selector, bytes32("one")));
        vm.prank(operator);
        treasury.redeem(debits(1, 2), payee);
    }

    /// P3
    function test_RevertWhen_APayoutIsTwiceInOneCall() external {
        PointsDebit[] memory list = debits(1, 2);
        list[1].payoutId = "one";
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AlreadyRedeemed.selector, bytes32("one")));
        vm.prank(operator);
        treasury.redeem(list, payee);
    }

    /// Nothing is paid, and nothing counts as redeemed.
    function test_RevertWhen_NeitherTheTokensNorTheAccruedPointsCoverIt() external {
        accrue(0, 7);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(treasury), 107, 108)
        );
        vm.prank(operator);
        treasury.redeem(debits(100, 8), payee);
        assertFalse(treasury.isRedeemed("one"));
        assertEq(log.providerOf(provider).pointsAccrued, 7);
        assertEq(treasury.backing(), 107);
    }

    function test_RevertWhen_ThereIsNothingToSweep() external {
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(treasury), 100, 101)
        );
        vm.prank(operator);
        treasury.redeem(debits(100, 1), payee);
    }

    function testFuzz_WhenItIsShort_ItSweepsFirst(uint64 accrued, uint64 more) external {
        accrued = uint64(bound(accrued, 1, type(uint64).max));
        more = uint64(bound(more, 1, accrued));
        accrue(0, accrued);
        vm.expectEmit(address(log));
        emit IRewardPool.PointsSwept(provider, address(treasury), accrued);
        vm.prank(operator);
        treasury.redeem(debits(100, more), payee);
        assertEq(token.balanceOf(payee), 100 + uint256(more));
        assertEq(log.providerOf(provider).pointsAccrued, 0);
        assertEq(treasury.backing(), accrued - more);
        assertEq(token.balanceOf(address(treasury)), accrued - more);
    }

    function testFuzz_WhenItHoldsEnough_ItLeavesTheRestInTheLog(uint8 amount) external {
        amount = uint8(bound(amount, 2, 100));
        accrue(0, 7);
        vm.prank(operator);
        treasury.redeem(debits(1, amount - 1), payee);
        assertEq(log.providerOf(provider).pointsAccrued, 7);
        assertEq(token.balanceOf(address(treasury)), 100 - amount);
        assertEq(treasury.backing(), 107 - amount);
    }

    function test_WhenItHoldsExactlyEnough_ItDoesNotSweep() external {
        accrue(0, 7);
        vm.prank(operator);
        treasury.redeem(debits(99, 1), payee);
        assertEq(token.balanceOf(address(treasury)), 0);
        assertEq(log.providerOf(provider).pointsAccrued, 7);
    }

    /// A treasury sweeps its own provider's points only.
    function test_WhenAnotherProviderAccrued_ItsPointsStay() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        fund(sponsor, address(log), 50);
        vm.prank(sponsor);
        uint64 task = log.createTask(stranger, 1, uint64(NOW + 1), "terms", "ipfs://t", 50);
        Batch memory batch = aPaidBatch(0, task, 50, 0);
        batch.provider = stranger;
        anchor(batch);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(treasury), 100, 101)
        );
        vm.prank(operator);
        treasury.redeem(debits(100, 1), payee);
        assertEq(log.providerOf(stranger).pointsAccrued, 50);
    }

    /// P1: backing() is the points issued less those redeemed, at every step.
    function testFuzz_BackingIsWhatWasIssuedLessWhatWasRedeemed(uint256 seed) external {
        uint256 backing = 100;
        uint64 number = 0;
        for (uint256 step = 0; step < 12; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint128 amount = uint128((seed >> 8) % 1000 + 1);
            if (seed % 3 == 0) {
                accrue(number++, amount);
                backing += amount;
            } else if (seed % 3 == 1) {
                log.sweepPoints(provider);
            } else {
                PointsDebit[] memory list = new PointsDebit[](1);
                list[0] = PointsDebit({payoutId: bytes32(step + 1), account: "alice", amount: amount});
                vm.prank(operator);
                try treasury.redeem(list, payee) {
                    backing -= amount;
                } catch {
                    assertTrue(amount > backing);
                }
            }
            assertEq(treasury.backing(), backing);
        }
        assertGe(token.balanceOf(address(log)), log.providerOf(provider).pointsAccrued);
    }

    function test_WhenRedeemed() external {
        vm.expectEmit(address(treasury));
        emit IPointsTreasury.PointsRedeemed("one", "alice", 30, payee);
        vm.expectEmit(address(treasury));
        emit IPointsTreasury.PointsRedeemed("two", "bob", 12, payee);
        vm.prank(operator);
        treasury.redeem(debits(30, 12), payee);
        assertEq(token.balanceOf(payee), 42);
        assertTrue(treasury.isRedeemed("one"));
        assertFalse(treasury.isRedeemed("three"));
    }

    /// P9
    function testFuzz_RevertWhen_SomebodyElseNamesTheOperator(address caller) external {
        vm.assume(caller != provider);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyProvider.selector, caller));
        vm.prank(caller);
        treasury.setOperator(caller);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyProvider.selector, operator));
        vm.prank(operator);
        treasury.setOperator(operator);
    }

    function test_RevertWhen_OperatorIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AddressZero.selector));
        vm.prank(provider);
        treasury.setOperator(address(0));
    }

    function test_WhenOperatorChanges() external {
        vm.expectEmit(address(treasury));
        emit IPointsTreasury.OperatorChanged(stranger);
        vm.prank(provider);
        treasury.setOperator(stranger);
        assertEq(treasury.operator(), stranger);
        assertEq(treasury.provider(), provider);
        assertEq(treasury.token(), address(token));
    }
}
