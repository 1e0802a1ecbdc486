// SPDX-License-Identifier: MIT OR Apache-2.0
// RewardPool: escrow in, debits by anchored batches only, claims once each and never beyond their batch.
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Batch, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {IRewardPool, Permit, Task} from "../interfaces/IRewardPool.sol";
import {Fixture} from "./Fixture.sol";
import {FeeToken, HookToken} from "./mocks/Tokens.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

contract CreateTaskTest is Fixture {
    uint64 private constant CLOSES_AT = uint64(NOW + 30 days);

    function create(address of_, uint128 price, uint64 closesAt, uint128 amount) private returns (uint64) {
        vm.prank(sponsor);
        return log.createTask(of_, price, closesAt, "terms", "ipfs://t", amount);
    }

    function test_RevertWhen_ProviderIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
        create(stranger, PRICE, CLOSES_AT, PRICE);
    }

    function test_RevertWhen_PriceIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.PriceZero.selector));
        create(provider, 0, CLOSES_AT, PRICE);
    }

    function test_RevertWhen_ClosesAtIsNotInTheFuture() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ClosesAtPast.selector, NOW));
        create(provider, PRICE, uint64(NOW), PRICE);
    }

    function test_RevertWhen_AmountIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountZero.selector));
        create(provider, PRICE, CLOSES_AT, 0);
    }

    function test_RevertWhen_ThereIsNoAllowance() external {
        token.mint(sponsor, PRICE);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(log), 0, PRICE)
        );
        create(provider, PRICE, CLOSES_AT, PRICE);
    }

    function test_RevertWhen_TheTokenTakesAFee() external {
        FeeToken fee = new FeeToken();
        vm.prank(stranger);
        log.registerProvider("fee", attestor, address(treasury), address(fee));
        fee.mint(sponsor, PRICE);
        vm.prank(sponsor);
        fee.approve(address(log), PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountReceivedDiffers.selector, PRICE, PRICE - 1));
        create(stranger, PRICE, CLOSES_AT, PRICE);
    }

    function test_RevertWhen_TheTokenReenters() external {
        HookToken hook = new HookToken();
        vm.prank(stranger);
        log.registerProvider("hook", attestor, address(treasury), address(hook));
        hook.mint(sponsor, PRICE);
        vm.prank(sponsor);
        hook.approve(address(log), PRICE);
        hook.onTransfer(address(log), abi.encodeCall(log.fundTask, (1, 1)));
        create(stranger, PRICE, CLOSES_AT, PRICE);
        assertEq(
            keccak256(hook.failure()),
            keccak256(abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector))
        );
        assertEq(log.taskOf(1).escrow, PRICE);
    }

    function test_WhenCreated() external {
        fund(sponsor, address(log), 3 * PRICE);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskCreated(1, provider, sponsor, PRICE, CLOSES_AT, "terms", "ipfs://t");
        vm.expectEmit(address(log));
        emit IRewardPool.TaskFunded(1, sponsor, 2 * PRICE);
        assertEq(create(provider, PRICE, CLOSES_AT, 2 * PRICE), 1);
        assertEq(create(provider, PRICE, CLOSES_AT, PRICE), 2);

        Task memory task = log.taskOf(1);
        assertEq(task.escrow, 2 * PRICE);
        assertEq(task.price, PRICE);
        assertEq(task.provider, provider);
        assertEq(task.closesAt, CLOSES_AT);
        assertEq(task.sponsor, sponsor);
        assertEq(log.taskCount(), 2);
        assertEq(token.balanceOf(address(log)), 3 * PRICE);
    }
}

contract CreateTaskWithPermitTest is Fixture {
    uint64 private constant CLOSES_AT = uint64(NOW + 30 days);

    function create(Permit memory permit) private returns (uint64) {
        vm.prank(sponsor);
        return log.createTaskWithPermit(provider, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE, permit);
    }

    function test_RevertWhen_ProviderIsUnknown() external {
        Permit memory permit;
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
        log.createTaskWithPermit(stranger, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE, permit);
    }

    function test_RevertWhen_ThePermitIsInvalidAndThereIsNoAllowance() external {
        token.mint(sponsor, PRICE);
        Permit memory permit = permitOf(keyOf("stranger"), address(log), PRICE);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(log), 0, PRICE)
        );
        create(permit);
    }

    function test_WhenPermitted() external {
        token.mint(sponsor, PRICE);
        uint64 task = create(permitOf(keyOf("sponsor"), address(log), PRICE));
        assertEq(log.taskOf(task).escrow, PRICE);
        assertEq(token.allowance(sponsor, address(log)), 0);
    }

    function test_WhenSomebodyCarriedThePermitBefore() external {
        token.mint(sponsor, PRICE);
        Permit memory permit = permitOf(keyOf("sponsor"), address(log), PRICE);
        vm.prank(stranger);
        token.permit(sponsor, address(log), PRICE, permit.deadline, permit.v, permit.r, permit.s);
        assertEq(log.taskOf(create(permit)).escrow, PRICE);
    }

    function test_WhenTheTokenHasNoPermit() external {
        HookToken plain = new HookToken();
        vm.prank(stranger);
        log.registerProvider("plain", attestor, address(treasury), address(plain));
        plain.mint(sponsor, PRICE);
        vm.prank(sponsor);
        plain.approve(address(log), PRICE);
        Permit memory permit;
        vm.prank(sponsor);
        uint64 task = log.createTaskWithPermit(stranger, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE, permit);
        assertEq(log.taskOf(task).escrow, PRICE);
    }
}

contract FundTaskTest is Fixture {
    function test_RevertWhen_TaskIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 1));
        log.fundTask(1, PRICE);
    }

    function test_RevertWhen_TaskIsClosed() external {
        uint64 task = aTask(PRICE);
        uint64 closesAt = log.taskOf(task).closesAt;
        vm.warp(closesAt + log.SETTLEMENT_GRACE() + 1);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskClosed.selector, task, closesAt));
        log.fundTask(task, PRICE);
    }

    function test_RevertWhen_AmountIsZero() external {
        uint64 task = aTask(PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountZero.selector));
        log.fundTask(task, 0);
    }

    function test_WhenAStrangerFunds() external {
        uint64 task = aTask(PRICE);
        fund(stranger, address(log), 7);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskFunded(task, stranger, 7);
        vm.prank(stranger);
        log.fundTask(task, 7);
        assertEq(log.taskOf(task).escrow, PRICE + 7);
        assertEq(token.balanceOf(address(log)), PRICE + 7);
    }

    function test_WhenPermitted() external {
        uint64 task = aTask(PRICE);
        token.mint(buyer, PRICE);
        Permit memory permit = permitOf(keyOf("buyer"), address(log), PRICE);
        vm.prank(buyer);
        log.fundTaskWithPermit(task, PRICE, permit);
        assertEq(log.taskOf(task).escrow, 2 * PRICE);
    }
}

contract RefundTaskTest is Fixture {
    uint64 private _task;
    uint64 private _closesAt;

    function setUp() public override {
        super.setUp();
        _task = aTask(3 * PRICE);
        _closesAt = log.taskOf(_task).closesAt;
    }

    function refund(address caller) private {
        vm.prank(caller);
        log.refundTask(_task);
    }

    function test_RevertWhen_TaskIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 9));
        log.refundTask(9);
    }

    function test_RevertWhen_CallerIsNotTheSponsor() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlySponsor.selector, sponsor, stranger));
        refund(stranger);
    }

    function test_RevertWhen_BatchesMayStillDebit() external {
        vm.warp(_closesAt + log.SETTLEMENT_GRACE());
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskOpenUntil.selector, _task, _closesAt));
        refund(sponsor);
    }

    function test_RevertWhen_NothingIsLeft() external {
        vm.warp(_closesAt + log.SETTLEMENT_GRACE() + 1);
        refund(sponsor);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountZero.selector));
        refund(sponsor);
    }

    function test_WhenTheGraceIsOver() external {
        anchor(aPaidBatch(0, _task, PRICE, 0));
        vm.warp(_closesAt + log.SETTLEMENT_GRACE() + 1);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskRefunded(_task, sponsor, 2 * PRICE);
        refund(sponsor);
        assertEq(token.balanceOf(sponsor), 2 * PRICE);
        assertEq(log.taskOf(_task).escrow, 0);
    }
}

contract SettleTest is Fixture {
    uint64 private _task;

    function setUp() public override {
        super.setUp();
        _task = aTask(4 * PRICE);
    }

    function test_RevertWhen_CallerIsNotTheLog() external {
        Batch memory batch = aPaidBatch(0, _task, PRICE, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlyLog.selector, provider));
        vm.prank(provider);
        log.settle(batch, provider, address(token));
    }

    function test_RevertWhen_ATaskIsDebitedTwice() external {
        Batch memory batch = aPaidBatch(0, _task, 2 * PRICE, 0);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = batch.debits[1] = TaskDebit({taskId: _task, amount: PRICE});
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.DebitsUnordered.selector, _task, _task));
    }

    function test_RevertWhen_TaskIdIsZero() external {
        expectAnchorRevert(
            aPaidBatch(0, 0, PRICE, 0), abi.encodeWithSelector(IRewardPool.DebitsUnordered.selector, 0, 0)
        );
    }

    function test_RevertWhen_TaskIsUnknown() external {
        expectAnchorRevert(aPaidBatch(0, 9, PRICE, 0), abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 9));
    }

    function test_RevertWhen_TheGraceIsOver() external {
        uint64 closesAt = log.taskOf(_task).closesAt;
        vm.warp(closesAt + log.SETTLEMENT_GRACE() + 1);
        expectAnchorRevert(
            aPaidBatch(0, _task, PRICE, 0), abi.encodeWithSelector(IRewardPool.TaskClosed.selector, _task, closesAt)
        );
    }

    function test_RevertWhen_TaskIsAnotherProviders() external {
        vm.prank(stranger);
        log.registerProvider("other", attestor, address(treasury), address(token));
        Batch memory batch = aPaidBatch(0, _task, PRICE, 0);
        batch.provider = stranger;
        expectAnchorRevert(
            batch, abi.encodeWithSelector(IRewardPool.TaskOfOtherProvider.selector, _task, provider, stranger)
        );
    }

    function test_RevertWhen_ADebitIsZero() external {
        expectAnchorRevert(aPaidBatch(0, _task, 0, 0), abi.encodeWithSelector(IRewardPool.AmountZero.selector));
    }

    function test_RevertWhen_ADebitIsNoMultipleOfThePrice() external {
        expectAnchorRevert(
            aPaidBatch(0, _task, PRICE, 1),
            abi.encodeWithSelector(IRewardPool.DebitNotMultipleOfPrice.selector, _task, PRICE, PRICE + 1)
        );
    }

    function test_RevertWhen_TheBudgetIsExceeded() external {
        expectAnchorRevert(
            aPaidBatch(0, _task, 5 * PRICE, 0),
            abi.encodeWithSelector(IRewardPool.BudgetExceeded.selector, _task, 4 * PRICE, 5 * PRICE)
        );
        assertEq(log.providerOf(provider).nextBatch, 0);
    }

    function test_RevertWhen_DebitsAndTotalsDiffer() external {
        Batch memory batch = aPaidBatch(0, _task, PRICE, PRICE);
        batch.walletTotal = 2 * PRICE;
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.DebitsDiffer.selector, 2 * PRICE, 3 * PRICE));
        batch.walletTotal = type(uint128).max;
        batch.pointsTotal = type(uint128).max;
        expectAnchorRevert(
            batch, abi.encodeWithSelector(IRewardPool.DebitsDiffer.selector, 2 * PRICE, 2 * uint256(type(uint128).max))
        );
    }

    function test_WhenSeveralTasksPay() external {
        uint64 second = aTask(PRICE);
        Batch memory batch = aPaidBatch(0, _task, PRICE, 2 * PRICE);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = TaskDebit({taskId: _task, amount: 2 * PRICE});
        batch.debits[1] = TaskDebit({taskId: second, amount: PRICE});
        bytes memory signature = attest(batch);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskDebited(_task, provider, 0, 2 * PRICE);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskDebited(second, provider, 0, PRICE);
        log.anchor(batch, signature);
        assertEq(log.taskOf(_task).escrow, 2 * PRICE);
        assertEq(log.taskOf(second).escrow, 0);
        assertEq(token.balanceOf(address(treasury)), PRICE);
        assertEq(log.unclaimedOf(provider, 0), 2 * PRICE);
    }

    function test_WhenWithinTheGrace() external {
        vm.warp(log.taskOf(_task).closesAt + log.SETTLEMENT_GRACE());
        anchor(aPaidBatch(0, _task, PRICE, 0));
        assertEq(token.balanceOf(address(treasury)), PRICE);
    }
}

contract ClaimTest is Fixture {
    using StandardMerkleTree for bytes32[];

    ProvenanceEvent[] private _events;

    /// @dev Event i pays i + 1 prices; event 3 is paid in points, event 4 pays nothing.
    function setUp() public override {
        super.setUp();
        for (uint32 i = 0; i < 5; ++i) {
            _events.push(anEvent(i, i == 3 ? address(0) : payee, i == 4 ? 0 : (i + 1) * PRICE));
        }
        anchorEvents(4 * PRICE, 6 * PRICE);
    }

    function anchorEvents(uint128 points, uint128 wallet) private {
        uint64 task = aTask(points + wallet);
        Batch memory batch = aPaidBatch(log.providerOf(provider).nextBatch, task, points, wallet);
        batch.root = treeOf(_events)[0];
        batch.eventCount = uint32(_events.length);
        anchor(batch);
    }

    function proof(uint256 i) private view returns (bytes32[] memory) {
        return treeOf(_events).proofOf(log.leafOf(_events[i]));
    }

    function test_RevertWhen_RewardIsZero() external {
        bytes32[] memory path = proof(4);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.RewardZero.selector, _events[4].dataId));
        log.claim(provider, 0, _events[4], path);
    }

    function test_RevertWhen_PaidInPoints() external {
        bytes32[] memory path = proof(3);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.PaidInPoints.selector, _events[3].dataId));
        log.claim(provider, 0, _events[3], path);
    }

    function test_RevertWhen_TheProofIsSomebodyElses() external {
        bytes32[] memory path = proof(1);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 0, 0));
        log.claim(provider, 0, _events[0], path);
    }

    function test_RevertWhen_ThePayeeIsChanged() external {
        bytes32[] memory path = proof(0);
        ProvenanceEvent memory e = _events[0];
        e.payee = stranger;
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 0, 0));
        vm.prank(stranger);
        log.claim(provider, 0, e, path);
    }

    function test_RevertWhen_TheBatchIsNotAnchored() external {
        bytes32[] memory path = proof(0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 1, 0));
        log.claim(provider, 1, _events[0], path);
    }

    function test_RevertWhen_ClaimedTwice() external {
        bytes32[] memory path = proof(0);
        log.claim(provider, 0, _events[0], path);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, 0, 0));
        log.claim(provider, 0, _events[0], path);
    }

    function test_RevertWhen_ABadBatchPromisesMoreThanItsTotal() external {
        anchorEvents(0, 3 * PRICE);
        log.claim(provider, 1, _events[1], proof(1));
        bytes32[] memory path = proof(2);
        vm.expectRevert(
            abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, 1, PRICE, 3 * PRICE)
        );
        log.claim(provider, 1, _events[2], path);
        assertEq(log.unclaimedOf(provider, 0), 6 * PRICE);
    }

    function test_WhenAnyoneClaims_ThePayeeIsPaid() external {
        bytes32[] memory path = proof(1);
        vm.expectEmit(address(log));
        emit IRewardPool.RewardClaimed(provider, 0, payee, 1, _events[1].dataId, 2 * PRICE);
        vm.prank(stranger);
        log.claim(provider, 0, _events[1], path);
        assertEq(token.balanceOf(payee), 2 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), 4 * PRICE);
        assertTrue(log.isClaimed(provider, 0, 1));
        assertFalse(log.isClaimed(provider, 0, 0));
    }

    /// Over random trees: each event is paid once, to its payee, and the batch ends at nothing left.
    function testFuzz_WhenAllClaim(uint8 size, uint256 seed) external {
        delete _events;
        uint256 count = bound(size, 1, 40);
        uint128 total = 0;
        for (uint32 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            // Sparse indexes, so that several words of the bitmap are used.
            ProvenanceEvent memory e = anEvent(i * 37, address(uint160(1000 + i)), uint128(bound(seed, 1, 5)) * PRICE);
            _events.push(e);
            total += e.reward;
        }
        anchorEvents(0, total);
        bytes32[] memory tree = treeOf(_events);
        for (uint256 i = 0; i < count; ++i) {
            ProvenanceEvent memory e = _events[i];
            log.claim(provider, 1, e, tree.proofOf(log.leafOf(e)));
            assertEq(token.balanceOf(e.payee), e.reward);
        }
        assertEq(log.unclaimedOf(provider, 1), 0);
        assertEq(token.balanceOf(address(log)), 6 * PRICE);
    }
}
