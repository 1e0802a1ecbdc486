// SPDX-License-Identifier: MIT OR Apache-2.0
// PointsTreasury: only the operator pays out, each payout once, never more than there is.
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IPointsTreasury, PointsDebit} from "../interfaces/IPointsTreasury.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
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

    function test_RevertWhen_AnAddressIsZeroAtDeployment() external {
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AddressZero.selector));
            new PointsTreasury(
                i == 0 ? address(0) : provider, i == 1 ? address(0) : address(token), i == 2 ? address(0) : operator
            );
        }
    }

    function test_RevertWhen_CallerIsNotTheOperator() external {
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.OnlyOperator.selector, provider));
        vm.prank(provider);
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

    function test_RevertWhen_APayoutIsRedeemedTwice() external {
        vm.prank(operator);
        treasury.redeem(debits(1, 2), payee);
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AlreadyRedeemed.selector, bytes32("one")));
        vm.prank(operator);
        treasury.redeem(debits(1, 2), payee);
    }

    function test_RevertWhen_APayoutIsTwiceInOneCall() external {
        PointsDebit[] memory list = debits(1, 2);
        list[1].payoutId = "one";
        vm.expectRevert(abi.encodeWithSelector(IPointsTreasury.AlreadyRedeemed.selector, bytes32("one")));
        vm.prank(operator);
        treasury.redeem(list, payee);
    }

    function test_RevertWhen_TheTokensDoNotCoverIt() external {
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(treasury), 100, 101)
        );
        vm.prank(operator);
        treasury.redeem(debits(100, 1), payee);
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

    function test_RevertWhen_SomebodyElseNamesTheOperator() external {
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
