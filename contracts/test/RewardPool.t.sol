// SPDX-License-Identifier: MIT OR Apache-2.0
// RewardPool: escrow in, debits by anchored batches only, claims once each and never beyond their batch, whatever the token.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Batch, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {Authorization, Claim, IRewardPool, Permit, Task} from "../interfaces/IRewardPool.sol";
import {DevToken} from "../src/dev/DevToken.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {BlocklistToken, FalseToken, FeeToken, HookToken, RebasingToken, SilentToken} from "./mocks/Tokens.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";
import {Vm} from "./Vm.sol";

/// @dev Batches whose trees hold real events, for any provider and token.
abstract contract BatchFixture is Fixture {
    using StandardMerkleTree for bytes32[];

    uint64 internal constant CLOSES_AT = uint64(NOW + 30 days);

    bytes32 private constant TRANSFER = keccak256("Transfer(address,address,uint256)");

    function anchorEvents(address who, uint64 task, ProvenanceEvent[] memory events, uint128 points, uint128 wallet)
        internal
        returns (uint64 number)
    {
        number = log.providerOf(who).nextBatch;
        Batch memory batch = aPaidBatch(number, task, points, wallet);
        (batch.provider, batch.root, batch.eventCount) = (who, treeOf(events)[0], uint32(events.length));
        anchor(batch);
    }

    function proofOf(ProvenanceEvent[] memory events, uint256 i) internal view returns (bytes32[] memory) {
        return treeOf(events).proofOf(log.leafOf(events[i]));
    }

    function claimOf(address who, uint64 number, ProvenanceEvent[] memory events, uint256 i)
        internal
        view
        returns (Claim memory)
    {
        return Claim({provider: who, number: number, e: events[i], proof: proofOf(events, i)});
    }

    /// @dev A task of any provider; all tokens here have mint.
    function aTaskOf(address who, address itsToken, uint128 price, uint128 amount) internal returns (uint64) {
        DevToken(itsToken).mint(sponsor, amount);
        vm.prank(sponsor);
        (bool ok,) = itsToken.call(abi.encodeCall(IERC20.approve, (address(log), type(uint256).max)));
        assertTrue(ok);
        vm.prank(sponsor);
        return log.createTask(who, price, CLOSES_AT, "terms", "ipfs://t", amount);
    }

    /// @dev Transfers in the recorded logs.
    function transfers() internal returns (uint256 count) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == TRANSFER) ++count;
        }
    }

    function isReentrance(bytes memory failure) internal pure returns (bool) {
        return keccak256(failure)
            == keccak256(abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
    }
}

contract CreateTaskTest is BatchFixture {
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

    function testFuzz_RevertWhen_ClosesAtIsNotInTheFuture(uint64 closesAt) external {
        closesAt = uint64(bound(closesAt, 0, NOW));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ClosesAtPast.selector, closesAt));
        create(provider, PRICE, closesAt, PRICE);
    }

    function test_RevertWhen_ThereIsNoAllowance() external {
        token.mint(sponsor, PRICE);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(log), 0, PRICE)
        );
        create(provider, PRICE, CLOSES_AT, PRICE);
    }

    function test_WhenAmountIsZero_TheEscrowIsEmpty() external {
        vm.recordLogs();
        assertEq(create(provider, PRICE, CLOSES_AT, 0), 1);
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(log.taskOf(1).escrow, 0);
        assertEq(log.taskOf(1).sponsor, sponsor);
    }

    function testFuzz_WhenCreated(uint128 price, uint64 closesAt, uint128 first, uint128 second) external {
        price = uint128(bound(price, 1, type(uint128).max));
        closesAt = uint64(bound(closesAt, NOW + 1, type(uint64).max));
        first = uint128(bound(first, 1, type(uint128).max));
        second = uint128(bound(second, 1, type(uint128).max));
        fund(sponsor, address(log), uint256(first) + second);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskCreated(1, provider, sponsor, price, closesAt, "terms", "ipfs://t");
        vm.expectEmit(address(log));
        emit IRewardPool.TaskFunded(1, sponsor, first);
        assertEq(create(provider, price, closesAt, first), 1);
        assertEq(create(provider, 1, CLOSES_AT, second), 2);

        Task memory task = log.taskOf(1);
        assertEq(task.escrow, first);
        assertEq(task.price, price);
        assertEq(task.provider, provider);
        assertEq(task.closesAt, closesAt);
        assertEq(task.sponsor, sponsor);
        assertEq(log.taskOf(2).escrow, second);
        assertEq(log.taskCount(), 2);
        assertEq(token.balanceOf(address(log)), uint256(first) + second);
    }
}

contract CreateTaskWithPermitTest is BatchFixture {
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

    /// P16: a permit for another contract is none for the log.
    function test_RevertWhen_ThePermitIsForAnotherContract() external {
        token.mint(sponsor, PRICE);
        Permit memory permit = permitOf(keyOf("sponsor"), address(licenses), PRICE);
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

    function test_WhenTheTokenHasNoPermit_TheAllowanceDecides() external {
        HookToken plain = new HookToken();
        registerProvider(stranger, "plain", attestor, address(plain), 0);
        plain.mint(sponsor, PRICE);
        vm.prank(sponsor);
        plain.approve(address(log), PRICE);
        Permit memory permit;
        vm.prank(sponsor);
        uint64 task = log.createTaskWithPermit(stranger, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE, permit);
        assertEq(log.taskOf(task).escrow, PRICE);
    }
}

contract FundTaskTest is BatchFixture {
    function test_RevertWhen_TaskIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 1));
        log.fundTask(1, PRICE);
    }

    function test_RevertWhen_AmountIsZero() external {
        uint64 task = aTask(PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountZero.selector));
        log.fundTask(task, 0);
    }

    function test_RevertWhen_TheEscrowWouldOverflow() external {
        uint64 task = aTask(PRICE);
        fund(stranger, address(log), type(uint128).max);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vm.prank(stranger);
        log.fundTask(task, type(uint128).max - PRICE + 1);
        vm.prank(stranger);
        log.fundTask(task, type(uint128).max - PRICE);
        assertEq(log.taskOf(task).escrow, type(uint128).max);
    }

    function testFuzz_WhenAStrangerFunds(uint96 amount, uint32 later) external {
        amount = uint96(bound(amount, 1, type(uint96).max));
        uint64 task = aTask(PRICE);
        // Also after the grace, for a batch that comes late.
        vm.warp(NOW + later);
        fund(stranger, address(log), amount);
        vm.expectEmit(address(log));
        emit IRewardPool.TaskFunded(task, stranger, amount);
        vm.prank(stranger);
        log.fundTask(task, amount);
        assertEq(log.taskOf(task).escrow, uint256(PRICE) + amount);
        assertEq(token.balanceOf(address(log)), uint256(PRICE) + amount);
    }

    function test_RevertWhen_TaskIsUnknown_WithPermit() external {
        Permit memory permit;
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 1));
        log.fundTaskWithPermit(1, PRICE, permit);
    }

    function test_WhenPermitted() external {
        uint64 task = aTask(PRICE);
        token.mint(buyer, PRICE);
        Permit memory permit = permitOf(keyOf("buyer"), address(log), PRICE);
        vm.prank(buyer);
        log.fundTaskWithPermit(task, PRICE, permit);
        assertEq(log.taskOf(task).escrow, 2 * PRICE);
    }

    function test_WhenSomebodyCarriedThePermitBefore() external {
        uint64 task = aTask(PRICE);
        token.mint(buyer, PRICE);
        Permit memory permit = permitOf(keyOf("buyer"), address(log), PRICE);
        token.permit(buyer, address(log), PRICE, permit.deadline, permit.v, permit.r, permit.s);
        vm.prank(buyer);
        log.fundTaskWithPermit(task, PRICE, permit);
        assertEq(log.taskOf(task).escrow, 2 * PRICE);
    }

    /// Nobody can use up somebody else's allowance for a task.
    function test_RevertWhen_TheAllowanceIsAnothers() external {
        uint64 task = aTask(PRICE);
        fund(buyer, address(log), PRICE);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(log), 0, PRICE)
        );
        vm.prank(stranger);
        log.fundTask(task, PRICE);
    }
}

contract FundTaskWithAuthorizationTest is BatchFixture {
    bytes32 private constant FUND_TASK = keccak256("fundTask");

    uint64 private _task;
    address private _payer;
    uint256 private _key;

    function setUp() public override {
        super.setUp();
        _task = aTask(PRICE);
        (_payer, _key) = (buyer, keyOf("buyer"));
        token.mint(_payer, 10 * PRICE);
    }

    function authorizationFor(uint64 task, uint128 amount, bytes32 salt) private view returns (Authorization memory) {
        return authorizationOf(_key, address(log), amount, keccak256(abi.encode(FUND_TASK, task, salt)), salt);
    }

    function nonceOf(uint64 task, bytes32 salt) private pure returns (bytes32) {
        return (keccak256(abi.encode(FUND_TASK, task, salt)) >> 64) << 64;
    }

    function fundWith(uint64 task, uint128 amount, Authorization memory authorization) private {
        vm.prank(stranger);
        log.fundTaskWithAuthorization(task, amount, _payer, authorization);
    }

    function expectInvalid() private {
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
    }

    function testFuzz_WhenAuthorised_AnyoneMaySendIt(uint128 amount, bytes32 salt) external {
        amount = uint128(bound(amount, 1, 10 * PRICE));
        vm.expectEmit(address(log));
        emit IRewardPool.TaskFunded(_task, _payer, amount);
        fundWith(_task, amount, authorizationFor(_task, amount, salt));
        assertEq(log.taskOf(_task).escrow, PRICE + amount);
        assertEq(token.balanceOf(_payer), 10 * PRICE - amount);
        assertEq(token.balanceOf(address(log)), PRICE + amount);
        assertTrue(token.authorizationState(_payer, nonceOf(_task, salt)));
    }

    function test_WhenThePayerFundsTwice_TheSaltMakesTheDifference() external {
        fundWith(_task, PRICE, authorizationFor(_task, PRICE, "one"));
        fundWith(_task, PRICE, authorizationFor(_task, PRICE, "two"));
        assertEq(log.taskOf(_task).escrow, 3 * PRICE);
    }

    function test_RevertWhen_TaskIsUnknown() external {
        Authorization memory authorization = authorizationFor(9, PRICE, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 9));
        fundWith(9, PRICE, authorization);
    }

    function test_RevertWhen_AmountIsZero() external {
        Authorization memory authorization = authorizationFor(_task, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountZero.selector));
        fundWith(_task, 0, authorization);
    }

    /// P16
    function test_RevertWhen_AuthorisedForAnotherTask() external {
        uint64 second = aTask(PRICE);
        Authorization memory authorization = authorizationFor(_task, PRICE, 0);
        expectInvalid();
        fundWith(second, PRICE, authorization);
    }

    /// P16, P3
    function test_RevertWhen_Replayed() external {
        Authorization memory authorization = authorizationFor(_task, PRICE, 0);
        fundWith(_task, PRICE, authorization);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, _payer, nonceOf(_task, 0)));
        fundWith(_task, PRICE, authorization);
    }

    /// P16
    function testFuzz_RevertWhen_AmountIsAnother(uint128 amount) external {
        amount = uint128(bound(amount, 1, 10 * PRICE));
        vm.assume(amount != PRICE);
        Authorization memory authorization = authorizationFor(_task, PRICE, 0);
        expectInvalid();
        fundWith(_task, amount, authorization);
    }

    /// P16
    function test_RevertWhen_TheSaltIsAnother() external {
        Authorization memory authorization = authorizationFor(_task, PRICE, "one");
        authorization.salt = "two";
        expectInvalid();
        fundWith(_task, PRICE, authorization);
    }

    /// P16
    function test_RevertWhen_AuthorisedForAnotherContract() external {
        bytes32 purpose = keccak256(abi.encode(FUND_TASK, _task, bytes32(0)));
        Authorization memory authorization = authorizationOf(_key, address(licenses), PRICE, purpose, 0);
        expectInvalid();
        fundWith(_task, PRICE, authorization);
    }

    function test_RevertWhen_SomebodyElseSigned() external {
        bytes32 purpose = keccak256(abi.encode(FUND_TASK, _task, bytes32(0)));
        Authorization memory authorization = authorizationOf(keyOf("stranger"), address(log), PRICE, purpose, 0);
        expectInvalid();
        fundWith(_task, PRICE, authorization);
    }

    function test_RevertWhen_Expired() external {
        Authorization memory authorization = authorizationFor(_task, PRICE, 0);
        vm.warp(authorization.validBefore);
        vm.expectRevert(
            abi.encodeWithSelector(ERC3009.ERC3009InvalidAuthorizationTime.selector, 0, authorization.validBefore)
        );
        fundWith(_task, PRICE, authorization);
    }

    /// Nobody but the log can spend it, so a mempool watcher cannot waste it.
    function test_WhenSomebodyTriesItBefore_ItStillCounts() external {
        Authorization memory a = authorizationFor(_task, PRICE, 0);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(log)));
        vm.prank(stranger);
        token.receiveWithAuthorization(
            _payer, address(log), PRICE, a.validAfter, a.validBefore, nonceOf(_task, 0), a.v, a.r, a.s
        );
        expectInvalid();
        vm.prank(stranger);
        token.transferWithAuthorization(
            _payer, address(log), PRICE, a.validAfter, a.validBefore, nonceOf(_task, 0), a.v, a.r, a.s
        );
        fundWith(_task, PRICE, a);
        assertEq(log.taskOf(_task).escrow, 2 * PRICE);
    }

    function test_RevertWhen_TheTokenHasNoAuthorisations() external {
        HookToken plain = new HookToken();
        registerProvider(stranger, "plain", attestor, address(plain), 0);
        uint64 task = aTaskOf(stranger, address(plain), PRICE, PRICE);
        Authorization memory authorization = authorizationFor(task, PRICE, 0);
        vm.expectRevert("");
        fundWith(task, PRICE, authorization);
        assertEq(log.taskOf(task).escrow, PRICE);
    }

    /// P12: a token that swallows the call has moved nothing.
    function test_RevertWhen_TheTokenOnlyPretends() external {
        Pretending pretending = new Pretending();
        registerProvider(stranger, "pretending", attestor, address(pretending), 0);
        vm.prank(sponsor);
        uint64 task = log.createTask(stranger, PRICE, CLOSES_AT, "terms", "ipfs://t", 0);
        Authorization memory authorization = authorizationFor(task, PRICE, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountReceivedDiffers.selector, PRICE, 0));
        fundWith(task, PRICE, authorization);
    }
}

/// @dev Accepts any call and does nothing, as WETH's fallback does with one it does not know.
contract Pretending {
    function balanceOf(address) external pure returns (uint256) {
        return 5;
    }

    fallback() external {}
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
        vm.warp(_closesAt + log.SETTLEMENT_GRACE() + 1);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlySponsor.selector, sponsor, stranger));
        refund(stranger);
    }

    function testFuzz_RevertWhen_TheEscrowIsBound(uint64 time) external {
        vm.warp(bound(time, NOW, _closesAt + log.SETTLEMENT_GRACE()));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskOpenUntil.selector, _task, _closesAt));
        refund(sponsor);
    }

    /// The end of such a task lies beyond every clock, and must not wrap around.
    function test_RevertWhen_ClosesAtIsTheLastSecondThereIs() external {
        fund(sponsor, address(log), PRICE);
        vm.prank(sponsor);
        _task = log.createTask(provider, PRICE, type(uint64).max, "terms", "ipfs://t", PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.TaskOpenUntil.selector, _task, type(uint64).max));
        refund(sponsor);
        anchor(aPaidBatch(0, _task, PRICE, 0));
    }

    /// P3
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
        assertEq(token.balanceOf(address(log)), PRICE);
    }
}

contract SettleTest is Fixture {
    uint64 private _task;

    function setUp() public override {
        super.setUp();
        _task = aTask(4 * PRICE);
    }

    function test_RevertWhen_ATaskIsDebitedTwice() external {
        Batch memory batch = aPaidBatch(0, _task, 2 * PRICE, 0);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = batch.debits[1] = TaskDebit({taskId: _task, amount: PRICE});
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.DebitsUnordered.selector, _task, _task));
    }

    function test_RevertWhen_DebitsDescend() external {
        uint64 second = aTask(PRICE);
        Batch memory batch = aPaidBatch(0, _task, 2 * PRICE, 0);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = TaskDebit({taskId: second, amount: PRICE});
        batch.debits[1] = TaskDebit({taskId: _task, amount: PRICE});
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.DebitsUnordered.selector, second, _task));
    }

    function test_RevertWhen_TaskIdIsZero() external {
        expectAnchorRevert(
            aPaidBatch(0, 0, PRICE, 0), abi.encodeWithSelector(IRewardPool.DebitsUnordered.selector, 0, 0)
        );
    }

    function test_RevertWhen_TaskIsUnknown() external {
        expectAnchorRevert(aPaidBatch(0, 9, PRICE, 0), abi.encodeWithSelector(IRewardPool.TaskUnknown.selector, 9));
    }

    function test_RevertWhen_TaskIsAnotherProviders() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        Batch memory batch = aPaidBatch(0, _task, PRICE, 0);
        batch.provider = stranger;
        expectAnchorRevert(
            batch, abi.encodeWithSelector(IRewardPool.TaskOfOtherProvider.selector, _task, provider, stranger)
        );
    }

    function test_RevertWhen_ADebitIsZero() external {
        expectAnchorRevert(aPaidBatch(0, _task, 0, 0), abi.encodeWithSelector(IRewardPool.AmountZero.selector));
    }

    function testFuzz_RevertWhen_ADebitIsNoMultipleOfThePrice(uint128 amount) external {
        amount = uint128(bound(amount, 1, type(uint128).max));
        vm.assume(amount % PRICE != 0);
        expectAnchorRevert(
            aPaidBatch(0, _task, 0, amount),
            abi.encodeWithSelector(IRewardPool.DebitNotMultipleOfPrice.selector, _task, PRICE, amount)
        );
    }

    /// P1
    function testFuzz_RevertWhen_TheBudgetIsExceeded(uint64 prices) external {
        uint128 amount = uint128(bound(prices, 5, type(uint64).max)) * PRICE;
        expectAnchorRevert(
            aPaidBatch(0, _task, amount, 0),
            abi.encodeWithSelector(IRewardPool.BudgetExceeded.selector, _task, 4 * PRICE, amount)
        );
        assertEq(log.providerOf(provider).nextBatch, 0);
        assertEq(log.rootOf(provider, 0), 0);
        assertEq(log.taskOf(_task).escrow, 4 * PRICE);
    }

    /// P1, P2
    function testFuzz_RevertWhen_DebitsAndTotalsDiffer(uint128 points, uint128 wallet) external {
        vm.assume(uint256(points) + wallet != 2 * PRICE);
        Batch memory batch = aPaidBatch(0, _task, PRICE, PRICE);
        (batch.pointsTotal, batch.walletTotal) = (points, wallet);
        expectAnchorRevert(
            batch, abi.encodeWithSelector(IRewardPool.DebitsDiffer.selector, 2 * PRICE, uint256(points) + wallet)
        );
    }

    function test_RevertWhen_ThereAreTotalsButNoDebits() external {
        Batch memory batch = aBatch(0);
        batch.walletTotal = PRICE;
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.DebitsDiffer.selector, 0, PRICE));
    }

    function test_WhenSeveralTasksPay() external {
        uint64 second = aTask(PRICE);
        Batch memory batch = aPaidBatch(0, _task, PRICE, 2 * PRICE);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = TaskDebit({taskId: _task, amount: 2 * PRICE});
        batch.debits[1] = TaskDebit({taskId: second, amount: PRICE});
        anchor(batch);
        assertEq(log.taskOf(_task).escrow, 2 * PRICE);
        assertEq(log.taskOf(second).escrow, 0);
        assertEq(log.providerOf(provider).pointsAccrued, PRICE);
        assertEq(log.unclaimedOf(provider, 0), 2 * PRICE);
    }

    function testFuzz_WhenItComesLate(uint64 later) external {
        vm.warp(bound(later, NOW, type(uint64).max));
        anchor(aPaidBatch(0, _task, PRICE, 0));
        assertEq(log.providerOf(provider).pointsAccrued, PRICE);
    }

    /// No batch is lost for good: whoever gives back what its tasks lack lets it through, and those behind it.
    function test_WhenTheEscrowWasRefundedBefore_FundingItAgainLetsTheBatchThrough() external {
        vm.warp(log.taskOf(_task).closesAt + log.SETTLEMENT_GRACE() + 1);
        vm.prank(sponsor);
        log.refundTask(_task);
        Batch memory batch = aPaidBatch(0, _task, PRICE, 0);
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.BudgetExceeded.selector, _task, 0, PRICE));
        fund(stranger, address(log), PRICE);
        vm.prank(stranger);
        log.fundTask(_task, PRICE);
        anchor(batch);
        assertEq(log.taskOf(_task).escrow, 0);
        assertEq(log.providerOf(provider).pointsAccrued, PRICE);
        anchor(aBatch(1));
    }
}

contract SweepPointsTest is BatchFixture {
    function test_RevertWhen_ProviderIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
        log.sweepPoints(stranger);
    }

    function test_WhenNothingAccrued_NothingHappens() external {
        vm.recordLogs();
        assertEq(log.sweepPoints(provider), 0);
        assertEq(vm.getRecordedLogs().length, 0);
    }

    /// P3
    function testFuzz_WhenAccrued_AnyoneSweepsItOnceToTheTreasury(uint96 first, uint96 second) external {
        first = uint96(bound(first, 1, type(uint96).max - 1));
        second = uint96(bound(second, 0, type(uint96).max - first));
        uint64 task = aTaskOf(provider, address(token), 1, type(uint96).max);
        anchor(aPaidBatch(0, task, first, 0));
        if (second > 0) anchor(aPaidBatch(1, task, second, 0));
        uint96 total = first + second;
        assertEq(log.providerOf(provider).pointsAccrued, total);
        vm.expectEmit(address(log));
        emit IRewardPool.PointsSwept(provider, address(treasury), total);
        vm.prank(stranger);
        assertEq(log.sweepPoints(provider), total);
        assertEq(log.sweepPoints(provider), 0);
        assertEq(token.balanceOf(address(treasury)), total);
        assertEq(token.balanceOf(address(log)), type(uint96).max - total);
    }

    /// P1: the count of accrued points never wraps, and a sweep makes room.
    function test_RevertWhen_MoreAccruesThanFits() external {
        uint128 most = type(uint96).max;
        uint64 task = aTaskOf(provider, address(token), 1, 3 * most);
        expectAnchorRevert(
            aPaidBatch(0, task, most + 1, 0),
            abi.encodeWithSelector(IRewardPool.PointsExceeded.selector, provider, most + 1)
        );
        anchor(aPaidBatch(0, task, most, 0));
        expectAnchorRevert(
            aPaidBatch(1, task, 1, 0), abi.encodeWithSelector(IRewardPool.PointsExceeded.selector, provider, most + 1)
        );
        log.sweepPoints(provider);
        anchor(aPaidBatch(1, task, 1, 0));
        assertEq(token.balanceOf(address(treasury)), most);
        assertEq(log.providerOf(provider).pointsAccrued, 1);
    }

    function test_WhenTwoProvidersAccrue_EachTreasuryGetsItsOwn() external {
        PointsTreasury theirs = registerProvider(stranger, "other", attestor, address(token), 0);
        anchor(aPaidBatch(0, aTask(PRICE), PRICE, 0));
        Batch memory batch = aPaidBatch(0, aTaskOf(stranger, address(token), 1, 7), 7, 0);
        batch.provider = stranger;
        anchor(batch);
        log.sweepPoints(provider);
        assertEq(token.balanceOf(address(treasury)), PRICE);
        assertEq(token.balanceOf(address(theirs)), 0);
        log.sweepPoints(stranger);
        assertEq(token.balanceOf(address(theirs)), 7);
    }
}

contract ClaimTest is BatchFixture {
    using StandardMerkleTree for bytes32[];

    ProvenanceEvent[] private _events;

    /// @dev Event i pays i + 1 prices; event 3 is paid in points, event 4 pays nothing.
    function setUp() public override {
        super.setUp();
        for (uint32 i = 0; i < 5; ++i) {
            _events.push(anEvent(i, i == 3 ? address(0) : payee, i == 4 ? 0 : (i + 1) * PRICE));
        }
        anchorAll(4 * PRICE, 6 * PRICE);
    }

    function anchorAll(uint128 points, uint128 wallet) private returns (uint64) {
        return anchorEvents(provider, aTask(points + wallet), _events, points, wallet);
    }

    function proof(uint256 i) private view returns (bytes32[] memory) {
        return proofOf(_events, i);
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

    /// P9
    function test_RevertWhen_ThePayeeIsChanged() external {
        bytes32[] memory path = proof(0);
        ProvenanceEvent memory e = _events[0];
        e.payee = stranger;
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 0, 0));
        vm.prank(stranger);
        log.claim(provider, 0, e, path);
    }

    /// P2
    function testFuzz_RevertWhen_TheRewardIsChanged(uint128 reward) external {
        vm.assume(reward != PRICE && reward != 0);
        bytes32[] memory path = proof(0);
        ProvenanceEvent memory e = _events[0];
        e.reward = reward;
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 0, 0));
        log.claim(provider, 0, e, path);
    }

    function test_RevertWhen_TheBatchIsNotAnchored() external {
        bytes32[] memory path = proof(0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 1, 0));
        log.claim(provider, 1, _events[0], path);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, stranger, 0, 0));
        log.claim(stranger, 0, _events[0], path);
    }

    /// P3
    function test_RevertWhen_ClaimedTwice() external {
        bytes32[] memory path = proof(0);
        log.claim(provider, 0, _events[0], path);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, 0, 0));
        log.claim(provider, 0, _events[0], path);
        assertEq(token.balanceOf(payee), PRICE);
    }

    /// P3: a word with dirty upper bits is no second spelling of an event.
    function testFuzz_RevertWhen_AWordHasDirtyBits(uint256 field, uint8 dirt, bool claimedBefore) external {
        bytes memory clean = abi.encodeCall(log.claim, (provider, 0, _events[0], proof(0)));
        uint256 word = [uint256(0), 1, 2, 3, 9, 10, 11, 12][field % 8];
        bytes memory data = bytes.concat(clean);
        data[4 + 64 + 32 * word + (word == 1 ? 31 : 0)] = bytes1(uint8(bound(dirt, 1, 255)));
        if (claimedBefore) log.claim(provider, 0, _events[0], proof(0));
        (bool ok,) = address(log).call(data);
        assertFalse(ok);
        (ok,) = address(log).call(clean);
        assertTrue(ok != claimedBefore);
        assertEq(token.balanceOf(payee), PRICE);
    }

    /// P2: and no other batch pays for it.
    function test_RevertWhen_ABadBatchPromisesMoreThanItsTotal() external {
        anchorAll(0, 3 * PRICE);
        log.claim(provider, 1, _events[1], proof(1));
        bytes32[] memory path = proof(2);
        vm.expectRevert(
            abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, 1, PRICE, 3 * PRICE)
        );
        log.claim(provider, 1, _events[2], path);
        assertEq(log.unclaimedOf(provider, 0), 6 * PRICE);
    }

    function testFuzz_RevertWhen_TheChallengeWindowIsOpen(uint32 window, uint32 elapsed) external {
        window = uint32(bound(window, 1, 30 days));
        vm.prank(provider);
        log.setChallengeWindow(window);
        anchorAll(0, 6 * PRICE);
        // A later change of the window changes nothing for this batch.
        vm.prank(provider);
        log.setChallengeWindow(0);
        bytes32[] memory path = proof(0);
        vm.warp(NOW + bound(elapsed, 0, window - 1));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ClaimTooEarly.selector, provider, 1, NOW + window));
        log.claim(provider, 1, _events[0], path);
        vm.warp(NOW + window);
        log.claim(provider, 1, _events[0], path);
        assertEq(token.balanceOf(payee), PRICE);
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
        uint256 count = bound(size, 1, 24);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](count);
        uint128 total = 0;
        for (uint32 i = 0; i < count; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            // Sparse indexes, so that several words of the bitmap are used.
            events[i] = anEvent(i * 37, address(uint160(1000 + i)), uint128(bound(seed, 1, 5)) * PRICE);
            total += events[i].reward;
        }
        anchorEvents(provider, aTask(total), events, 0, total);
        bytes32[] memory tree = treeOf(events);
        for (uint256 i = 0; i < count; ++i) {
            log.claim(provider, 1, events[i], tree.proofOf(log.leafOf(events[i])));
            assertEq(token.balanceOf(events[i].payee), events[i].reward);
        }
        assertEq(log.unclaimedOf(provider, 1), 0);
        assertEq(token.balanceOf(address(log)), 10 * PRICE);
    }
}

contract ClaimManyTest is BatchFixture {
    address private constant OTHER = address(0x0713);

    ProvenanceEvent[] private _events;
    DevToken private _second;
    address private _theirs = account("their provider");

    /// @dev Events 0, 1 and 3 are payee's, 2 is another's, in a batch of each of two providers with two tokens.
    function setUp() public override {
        super.setUp();
        for (uint32 i = 0; i < 4; ++i) {
            _events.push(anEvent(i, i == 2 ? OTHER : payee, PRICE));
        }
        _second = Deploy.devToken();
        registerProvider(_theirs, "theirs", attestor, address(_second), 0);
        anchorEvents(provider, aTask(4 * PRICE), _events, 0, 4 * PRICE);
        anchorEvents(_theirs, aTaskOf(_theirs, address(_second), PRICE, 4 * PRICE), _events, 0, 4 * PRICE);
    }

    function mine(uint256 i) private view returns (Claim memory) {
        return claimOf(provider, 0, _events, i);
    }

    function theirs(uint256 i) private view returns (Claim memory) {
        return claimOf(_theirs, 0, _events, i);
    }

    function list(Claim memory a, Claim memory b, Claim memory c) private pure returns (Claim[] memory claims) {
        claims = new Claim[](3);
        (claims[0], claims[1], claims[2]) = (a, b, c);
    }

    /// @dev Claims, and says how many transfers it took.
    function claimMany(Claim[] memory claims) private returns (uint256) {
        vm.recordLogs();
        vm.prank(stranger);
        log.claimMany(claims);
        return transfers();
    }

    function test_WhenThereAreNone() external {
        vm.recordLogs();
        log.claimMany(new Claim[](0));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_WhenNeighboursHaveOnePayee_TheyShareATransfer() external {
        assertEq(claimMany(list(mine(0), mine(1), mine(3))), 1);
        assertEq(token.balanceOf(payee), 3 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), PRICE);
    }

    function test_WhenThePayeeChanges() external {
        assertEq(claimMany(list(mine(0), mine(1), mine(2))), 2);
        assertEq(token.balanceOf(payee), 2 * PRICE);
        assertEq(token.balanceOf(OTHER), PRICE);
    }

    function test_WhenPayeesAlternate_NothingIsMergedOrLost() external {
        assertEq(claimMany(list(mine(0), mine(2), mine(1))), 3);
        assertEq(token.balanceOf(payee), 2 * PRICE);
        assertEq(token.balanceOf(OTHER), PRICE);
    }

    function test_WhenTheTokenChanges() external {
        assertEq(claimMany(list(mine(0), theirs(0), theirs(1))), 2);
        assertEq(token.balanceOf(payee), PRICE);
        assertEq(_second.balanceOf(payee), 2 * PRICE);
        assertEq(claimMany(list(mine(1), theirs(3), mine(3))), 3);
        assertEq(token.balanceOf(payee), 3 * PRICE);
        assertEq(_second.balanceOf(payee), 3 * PRICE);
    }

    /// Two providers with one token, one payee.
    function test_WhenTheProviderChangesButNotTheToken_TheyShareATransfer() external {
        registerProvider(buyer, "third", attestor, address(token), 0);
        anchorEvents(buyer, aTaskOf(buyer, address(token), PRICE, 4 * PRICE), _events, 0, 4 * PRICE);
        assertEq(claimMany(list(mine(0), claimOf(buyer, 0, _events, 0), mine(1))), 1);
        assertEq(token.balanceOf(payee), 3 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), 2 * PRICE);
        assertEq(log.unclaimedOf(buyer, 0), 3 * PRICE);
    }

    /// P3: wherever in the call they stand.
    function testFuzz_WhenSomeAreClaimedBefore_TheyAreSkipped(uint256 claimed) external {
        uint256 fresh = 3;
        uint256[3] memory order = [uint256(0), 1, 3];
        for (uint256 i = 0; i < 3; ++i) {
            if (claimed & (1 << i) == 0) continue;
            Claim memory c = mine(order[i]);
            log.claim(provider, 0, c.e, c.proof);
            --fresh;
        }
        assertEq(claimMany(list(mine(0), mine(1), mine(3))), fresh == 0 ? 0 : 1);
        assertEq(token.balanceOf(payee), 3 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), PRICE);
    }

    /// P3
    function test_WhenOneIsThereTwice_ItIsPaidOnce() external {
        assertEq(claimMany(list(mine(0), mine(0), mine(0))), 1);
        assertEq(token.balanceOf(payee), PRICE);
    }

    /// A skipped one of another payee between two does not part them.
    function test_WhenASkippedOneStandsBetween_TheyStillShareATransfer() external {
        Claim memory c = mine(2);
        log.claim(provider, 0, c.e, c.proof);
        assertEq(claimMany(list(mine(0), mine(2), mine(1))), 1);
        assertEq(token.balanceOf(payee), 2 * PRICE);
        assertEq(token.balanceOf(OTHER), PRICE);
    }

    function testFuzz_RevertWhen_OneProofIsWrong(uint256 position) external {
        Claim[] memory claims = list(mine(0), mine(1), theirs(3));
        Claim memory wrong = claims[position % 3];
        wrong.proof[0] ^= bytes32(uint256(1));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, wrong.provider, 0, wrong.e.index));
        log.claimMany(claims);
        assertEq(token.balanceOf(payee), 0);
        assertFalse(log.isClaimed(provider, 0, 0));
    }

    /// A claimed one is skipped only with its proof, so nothing unproven ever passes.
    function test_RevertWhen_AClaimedOnesProofIsWrong() external {
        Claim memory c = mine(0);
        log.claim(provider, 0, c.e, c.proof);
        c.e.payee = stranger;
        Claim[] memory claims = list(mine(1), c, mine(3));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, 0, 0));
        log.claimMany(claims);
    }

    function test_RevertWhen_OneIsTooEarly() external {
        vm.prank(provider);
        log.setChallengeWindow(1);
        anchorEvents(provider, aTask(4 * PRICE), _events, 0, 4 * PRICE);
        Claim[] memory claims = list(mine(0), claimOf(provider, 1, _events, 0), mine(1));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ClaimTooEarly.selector, provider, 1, NOW + 1));
        log.claimMany(claims);
        vm.warp(NOW + 1);
        assertEq(claimMany(claims), 1);
        assertEq(token.balanceOf(payee), 3 * PRICE);
    }

    /// P2
    function test_RevertWhen_OneExceedsItsBatch() external {
        anchorEvents(provider, aTask(PRICE), _events, 0, PRICE);
        Claim[] memory claims = list(mine(0), claimOf(provider, 1, _events, 0), claimOf(provider, 1, _events, 1));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, 1, 0, PRICE));
        log.claimMany(claims);
    }
}

contract HoldTest is BatchFixture {
    ProvenanceEvent[] private _events;

    function setUp() public override {
        super.setUp();
        for (uint32 i = 0; i < 3; ++i) {
            _events.push(anEvent(i, payee, PRICE));
        }
        // another batch holds more, which is not for these events
        anchorEvents(provider, aTask(4 * PRICE), _events, 0, 4 * PRICE);
        anchorEvents(provider, aTask(4 * PRICE), _events, 0, 2 * PRICE);
    }

    function hold(uint32 index, uint128 amount) private {
        vm.prank(address(disputes));
        log.hold(provider, 1, index, amount);
    }

    /// P9
    function testFuzz_RevertWhen_CallerIsNotDisputes(address caller) external {
        vm.assume(caller != address(disputes));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlyDisputes.selector, caller));
        vm.prank(caller);
        log.hold(provider, 1, 0, PRICE);
    }

    /// P3
    function test_RevertWhen_ClaimedOrHeldBefore() external {
        log.claim(provider, 1, _events[0], proofOf(_events, 0));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, 1, 0));
        hold(0, PRICE);
        hold(1, PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, 1, 1));
        hold(1, 0);
    }

    /// P2: holds and claims draw on the same total, and not on the task's escrow.
    function test_RevertWhen_TheBatchHasNotSoMuch() external {
        hold(0, PRICE);
        log.claim(provider, 1, _events[1], proofOf(_events, 1));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, 1, 0, PRICE));
        hold(2, PRICE);
        assertEq(token.balanceOf(address(log)), 6 * PRICE);
    }

    /// P3
    function test_WhenHeld_ItCannotBeClaimed() external {
        vm.expectEmit(address(log));
        emit IRewardPool.RewardHeld(provider, 1, 0, PRICE);
        hold(0, PRICE);
        assertTrue(log.isClaimed(provider, 1, 0));
        assertEq(log.unclaimedOf(provider, 1), PRICE);
        assertEq(token.balanceOf(address(disputes)), PRICE);
        bytes32[] memory path = proofOf(_events, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, 1, 0));
        log.claim(provider, 1, _events[0], path);
        Claim[] memory claims = new Claim[](1);
        claims[0] = claimOf(provider, 1, _events, 0);
        log.claimMany(claims);
        assertEq(token.balanceOf(payee), 0);
    }
}

/// @dev What claims, claimMany and holds must do, said a second time and simply.
contract ClaimModelTest is BatchFixture {
    using StandardMerkleTree for bytes32[];

    uint256 private constant BATCHES = 3;
    uint256 private constant EVENTS = 4;
    uint256 private constant PAYEES = 3;

    struct Model {
        uint256[BATCHES] left;
        bool[EVENTS][BATCHES] taken;
        /// By payee and token.
        uint256[2][PAYEES] paid;
        uint256[2] held;
    }

    ProvenanceEvent[][BATCHES] private _events;
    Claim[][BATCHES] private _claims;
    uint64[BATCHES] private _claimableAt;
    address[2] private _owners;
    address[2] private _tokens;

    /// @dev Batches 0 and 1 are of one provider, 2 of another with another token; 1 waits out a window.
    function anchorBatches(uint256 seed) private returns (Model memory model) {
        _owners = [provider, account("their provider")];
        _tokens = [address(token), address(Deploy.devToken())];
        registerProvider(_owners[1], "theirs", attestor, _tokens[1], 0);
        for (uint256 b = 0; b < BATCHES; ++b) {
            uint256 kind = b / 2;
            uint256 total = 0;
            for (uint32 i = 0; i < EVENTS; ++i) {
                seed = uint256(keccak256(abi.encode(seed)));
                // A bad attestor may give one index twice, and words of the bitmap far apart.
                uint32 index = seed % 5 == 0 ? 0 : i * 300;
                address to = address(uint160(1000 + (seed >> 8) % PAYEES));
                ProvenanceEvent memory e = anEvent(index, to, uint128(1 + (seed >> 16) % 100));
                e.dataId = bytes16(keccak256(abi.encode(b, i)));
                _events[b].push(e);
                total += e.reward;
            }
            // And promise more than there is.
            if ((seed >> 32) % 2 == 0) total -= (seed >> 40) % (total / 2);
            uint32 window = b == 1 ? 10 hours : 0;
            vm.prank(_owners[kind]);
            log.setChallengeWindow(window);
            uint64 task = aTaskOf(_owners[kind], _tokens[kind], 1, uint128(total));
            uint64 number = anchorEvents(_owners[kind], task, _events[b], 0, uint128(total));
            for (uint256 i = 0; i < EVENTS; ++i) {
                _claims[b].push(claimOf(_owners[kind], number, _events[b], i));
            }
            _claimableAt[b] = uint64(NOW) + window;
            model.left[b] = total;
        }
    }

    /// @return 0 where it reverts, 1 where it pays, 2 where it was taken before.
    function take(Model memory model, uint256 b, uint256 i) private view returns (uint256) {
        ProvenanceEvent memory e = _events[b][i];
        uint256 bit = e.index / 300;
        if (model.taken[b][bit]) return 2;
        if (block.timestamp < _claimableAt[b] || model.left[b] < e.reward) return 0;
        model.taken[b][bit] = true;
        model.left[b] -= e.reward;
        model.paid[uint160(e.payee) - 1000][b / 2] += e.reward;
        return 1;
    }

    function takeMany(Model memory model, uint256[3] memory picks) private view returns (bool, Model memory) {
        Model memory tried = abi.decode(abi.encode(model), (Model));
        for (uint256 k = 0; k < 3; ++k) {
            if (take(tried, picks[k] / EVENTS, picks[k] % EVENTS) == 0) return (false, model);
        }
        return (true, tried);
    }

    function hold(Model memory model, uint256 b, uint256 i) private view returns (bool) {
        ProvenanceEvent memory e = _events[b][i];
        if (model.taken[b][e.index / 300] || model.left[b] < e.reward) return false;
        model.taken[b][e.index / 300] = true;
        model.left[b] -= e.reward;
        model.held[b / 2] += e.reward;
        return true;
    }

    /// P1, P2, P3
    function testFuzz_ClaimsDoWhatTheModelDoes(uint256 seed) external {
        Model memory model = anchorBatches(seed);
        for (uint256 step = 0; step < 14; ++step) {
            seed = uint256(keccak256(abi.encode(seed, step)));
            uint256 b = (seed >> 8) % BATCHES;
            uint256 i = (seed >> 16) % EVENTS;
            Claim memory c = _claims[b][i];
            bool done = false;
            bool expected = false;
            if (seed % 4 == 0) {
                expected = take(model, b, i) == 1;
                try log.claim(c.provider, c.number, c.e, c.proof) {
                    done = true;
                } catch {}
            } else if (seed % 4 < 3) {
                uint256[3] memory picks;
                Claim[] memory claims = new Claim[](3);
                for (uint256 k = 0; k < 3; ++k) {
                    picks[k] = (seed >> (24 + 8 * k)) % (BATCHES * EVENTS);
                    claims[k] = _claims[picks[k] / EVENTS][picks[k] % EVENTS];
                }
                (expected, model) = takeMany(model, picks);
                try log.claimMany(claims) {
                    done = true;
                } catch {}
            } else {
                expected = hold(model, b, i);
                vm.prank(address(disputes));
                try log.hold(c.provider, c.number, c.e.index, c.e.reward) {
                    done = true;
                } catch {}
            }
            assertTrue(done == expected);
            assertEqualsModel(model);
            if (seed >> 250 == 0 || step == 7) vm.warp(NOW + 10 hours);
        }
    }

    function assertEqualsModel(Model memory model) private view {
        uint256[2] memory left;
        for (uint256 b = 0; b < BATCHES; ++b) {
            assertEq(log.unclaimedOf(_owners[b / 2], _claims[b][0].number), model.left[b]);
            left[b / 2] += model.left[b];
            for (uint256 i = 0; i < EVENTS; ++i) {
                bool claimed = log.isClaimed(_owners[b / 2], _claims[b][0].number, uint32(i * 300));
                assertTrue(claimed == model.taken[b][i]);
            }
        }
        for (uint256 kind = 0; kind < 2; ++kind) {
            IERC20 itsToken = IERC20(_tokens[kind]);
            assertEq(itsToken.balanceOf(address(log)), left[kind]);
            assertEq(itsToken.balanceOf(address(disputes)), model.held[kind]);
            for (uint256 p = 0; p < PAYEES; ++p) {
                assertEq(itsToken.balanceOf(address(uint160(1000 + p))), model.paid[p][kind]);
            }
        }
    }
}

/// @dev P12: beside a provider with an honest token stands one with a bad token, in one log.
contract BadTokenTest is BatchFixture {
    address private constant ALICE = address(0xa11ce);
    address private constant BOB = address(0xb0b);

    address private _chooser = account("chooser");
    PointsTreasury private _theirTreasury;
    ProvenanceEvent[] private _events;
    uint64 private _honestTask;
    uint64 private _badTask;

    /// @dev Each event pays one price, to Alice or to Bob.
    function setUp() public override {
        super.setUp();
        _events.push(anEvent(0, ALICE, PRICE));
        _events.push(anEvent(1, BOB, PRICE));
        _honestTask = aTask(10 * PRICE);
        anchorEvents(provider, _honestTask, _events, PRICE, 2 * PRICE);
    }

    /// @dev A task of 10 prices, of which a batch debits 3: one in points, two in wallet rewards.
    function choose(address bad) private {
        registerChooser(bad);
        _badTask = aTaskOf(_chooser, bad, PRICE, 10 * PRICE);
        anchorEvents(_chooser, _badTask, _events, PRICE, 2 * PRICE);
    }

    function registerChooser(address bad) private {
        _theirTreasury = registerProvider(_chooser, "chooser", attestor, bad, 0);
    }

    function claimTheirs(uint256 i) private {
        Claim memory c = claimOf(_chooser, 0, _events, i);
        log.claim(c.provider, c.number, c.e, c.proof);
    }

    /// @dev All that can be done with the honest token works, to the unit, and nothing of it is left in the log.
    function assertHonestUntouched() private {
        assertEq(token.balanceOf(address(log)), 10 * PRICE);
        Claim[] memory claims = new Claim[](2);
        (claims[0], claims[1]) = (claimOf(provider, 0, _events, 0), claimOf(provider, 0, _events, 1));
        log.claimMany(claims);
        assertEq(token.balanceOf(ALICE), PRICE);
        assertEq(token.balanceOf(BOB), PRICE);
        log.sweepPoints(provider);
        assertEq(token.balanceOf(address(treasury)), PRICE);
        assertEq(treasury.backing(), PRICE);
        fund(buyer, address(log), PRICE);
        vm.prank(buyer);
        log.fundTask(_honestTask, PRICE);
        Batch memory batch = aPaidBatch(1, _honestTask, PRICE, 0);
        anchor(batch);
        log.sweepPoints(provider);
        vm.warp(CLOSES_AT + log.SETTLEMENT_GRACE() + 1);
        vm.prank(sponsor);
        log.refundTask(_honestTask);
        assertEq(token.balanceOf(sponsor), 7 * PRICE);
        assertEq(token.balanceOf(address(treasury)), 2 * PRICE);
        assertEq(token.balanceOf(address(log)), 0);
    }

    function test_WhenTheTokenTakesAFee_NothingIsTakenIn() external {
        FeeToken fee = new FeeToken();
        registerChooser(address(fee));
        fee.mint(sponsor, PRICE);
        vm.prank(sponsor);
        fee.approve(address(log), PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountReceivedDiffers.selector, PRICE, PRICE - 1));
        vm.prank(sponsor);
        log.createTask(_chooser, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE);
        assertEq(log.taskCount(), 1);
        assertHonestUntouched();
    }

    function test_WhenTheTokenTakesAFeeLater_TheReceiverBearsIt() external {
        FeeToken fee = new FeeToken();
        fee.setFee(0);
        choose(address(fee));
        fee.setFee(7);
        claimTheirs(0);
        log.sweepPoints(_chooser);
        assertEq(fee.balanceOf(ALICE), PRICE - 7);
        assertEq(fee.balanceOf(address(_theirTreasury)), PRICE - 7);
        assertEq(fee.balanceOf(address(log)), 8 * PRICE);
        fee.mint(sponsor, PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AmountReceivedDiffers.selector, PRICE, PRICE - 7));
        vm.prank(sponsor);
        log.fundTask(_badTask, PRICE);
        assertHonestUntouched();
    }

    function testFuzz_WhenTheTokenRebasesUp(uint256 factor) external {
        factor = bound(factor, 1e18 + 1, 100e18);
        RebasingToken rebasing = new RebasingToken();
        choose(address(rebasing));
        rebasing.rebase(factor);
        claimTheirs(0);
        claimTheirs(1);
        log.sweepPoints(_chooser);
        // A claim pays what was promised, but for a share's rounding; the gain stays.
        assertGe(rebasing.balanceOf(ALICE), PRICE - 1);
        assertLe(rebasing.balanceOf(ALICE), PRICE + factor / 1e18 + 1);
        assertGe(rebasing.balanceOf(address(log)), 7 * PRICE - 3 * (factor / 1e18 + 1));
        assertHonestUntouched();
    }

    function test_WhenTheTokenRebasesDown_ItsLastOnesGoUnpaid() external {
        RebasingToken rebasing = new RebasingToken();
        choose(address(rebasing));
        // Of 10 prices one is left.
        rebasing.rebase(0.1e18);
        claimTheirs(1);
        assertEq(rebasing.balanceOf(BOB), PRICE);
        Claim memory c = claimOf(_chooser, 0, _events, 0);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(log), 0, 10 * PRICE)
        );
        log.claim(c.provider, c.number, c.e, c.proof);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(log), 0, 10 * PRICE)
        );
        log.sweepPoints(_chooser);
        // Nothing is lost but the tokens: who makes them up again is paid.
        assertFalse(log.isClaimed(_chooser, 0, 0));
        rebasing.mint(address(log), 10 * PRICE);
        claimTheirs(0);
        assertEq(rebasing.balanceOf(ALICE), PRICE);
        assertHonestUntouched();
    }

    function test_WhenTheTokenAnswersFalse_NothingCountsAsPaid() external {
        FalseToken falsy = new FalseToken();
        choose(address(falsy));
        falsy.setFailing(true);
        bytes memory failed = abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(falsy));
        Claim memory c = claimOf(_chooser, 0, _events, 0);
        vm.expectRevert(failed);
        log.claim(c.provider, c.number, c.e, c.proof);
        vm.expectRevert(failed);
        log.sweepPoints(_chooser);
        falsy.mint(sponsor, PRICE);
        vm.expectRevert(failed);
        vm.prank(sponsor);
        log.fundTask(_badTask, PRICE);
        assertFalse(log.isClaimed(_chooser, 0, 0));
        assertEq(log.providerOf(_chooser).pointsAccrued, PRICE);
        assertEq(log.taskOf(_badTask).escrow, 7 * PRICE);
        falsy.setFailing(false);
        claimTheirs(0);
        assertEq(falsy.balanceOf(ALICE), PRICE);
        assertHonestUntouched();
    }

    function test_WhenTheTokenReturnsNothing_AllWorks() external {
        SilentToken silent = new SilentToken();
        choose(address(silent));
        claimTheirs(0);
        claimTheirs(1);
        log.sweepPoints(_chooser);
        assertEq(silent.balanceOf(ALICE), PRICE);
        assertEq(silent.balanceOf(BOB), PRICE);
        assertEq(silent.balanceOf(address(_theirTreasury)), PRICE);
        assertEq(silent.balanceOf(address(log)), 7 * PRICE);
        assertHonestUntouched();
        vm.prank(sponsor);
        log.refundTask(_badTask);
        assertEq(silent.balanceOf(sponsor), 7 * PRICE);
        assertEq(silent.balanceOf(address(log)), 0);
    }

    function expectBlocked(address who) private {
        vm.expectRevert(abi.encodeWithSelector(BlocklistToken.Blocked.selector, who));
    }

    function test_WhenAPayeeIsBlocked_OnlyHeWaits() external {
        BlocklistToken blocking = new BlocklistToken();
        choose(address(blocking));
        blocking.setBlocked(ALICE, true);
        Claim[] memory claims = new Claim[](2);
        (claims[0], claims[1]) = (claimOf(_chooser, 0, _events, 0), claimOf(_chooser, 0, _events, 1));
        expectBlocked(ALICE);
        log.claimMany(claims);
        claimTheirs(1);
        assertEq(blocking.balanceOf(BOB), PRICE);
        log.sweepPoints(_chooser);
        assertHonestUntouched();
        blocking.setBlocked(ALICE, false);
        log.claimMany(claims);
        assertEq(blocking.balanceOf(ALICE), PRICE);
    }

    function test_WhenATreasuryOrSponsorIsBlocked_BatchesAndClaimsGoOn() external {
        BlocklistToken blocking = new BlocklistToken();
        choose(address(blocking));
        blocking.setBlocked(address(_theirTreasury), true);
        blocking.setBlocked(sponsor, true);
        expectBlocked(address(_theirTreasury));
        log.sweepPoints(_chooser);
        anchorEvents(_chooser, _badTask, _events, PRICE, 2 * PRICE);
        claimTheirs(0);
        assertEq(log.providerOf(_chooser).pointsAccrued, 2 * PRICE);
        assertHonestUntouched();
        expectBlocked(sponsor);
        vm.prank(sponsor);
        log.refundTask(_badTask);
        assertEq(log.taskOf(_badTask).escrow, 4 * PRICE);
        blocking.setBlocked(sponsor, false);
        vm.prank(sponsor);
        log.refundTask(_badTask);
        assertEq(blocking.balanceOf(sponsor), 4 * PRICE);
    }

    function test_WhenTheLogIsBlocked_OnlyThatTokenStops() external {
        BlocklistToken blocking = new BlocklistToken();
        choose(address(blocking));
        blocking.setBlocked(address(log), true);
        Claim[] memory claims = new Claim[](1);
        claims[0] = claimOf(_chooser, 0, _events, 1);
        expectBlocked(address(log));
        log.claimMany(claims);
        assertHonestUntouched();
    }

    /// @dev Every way into the guarded functions, from inside a transfer.
    function reentries() private view returns (bytes[] memory calls) {
        calls = new bytes[](9);
        Claim[] memory claims = new Claim[](1);
        Claim memory c = claims[0] = claimOf(_chooser, 0, _events, 0);
        Permit memory permit;
        Authorization memory authorization;
        calls[0] = abi.encodeCall(log.claim, (c.provider, c.number, c.e, c.proof));
        calls[1] = abi.encodeCall(log.claimMany, (claims));
        calls[2] = abi.encodeCall(log.sweepPoints, (_chooser));
        calls[3] = abi.encodeCall(log.refundTask, (_badTask));
        calls[4] = abi.encodeCall(log.fundTask, (_badTask, 1));
        calls[5] = abi.encodeCall(log.fundTaskWithPermit, (_badTask, 1, permit));
        calls[6] = abi.encodeCall(log.fundTaskWithAuthorization, (_badTask, 1, sponsor, authorization));
        calls[7] = abi.encodeCall(log.createTask, (_chooser, 1, CLOSES_AT, "terms", "ipfs://t", 1));
        bytes[] memory inner = new bytes[](1);
        inner[0] = calls[0];
        calls[8] = abi.encodeCall(log.multicall, (inner));
    }

    /// P3
    function testFuzz_WhenTheTokenReenters_TheGuardHolds(uint256 outer, uint256 inner) external {
        HookToken hook = new HookToken();
        choose(address(hook));
        hook.mint(sponsor, PRICE);
        bytes[] memory calls = reentries();
        hook.onTransfer(address(log), calls[inner % calls.length]);
        outer = outer % 5;
        if (outer == 0) claimTheirs(0);
        if (outer == 1) log.multicall(oneCall(calls[1]));
        if (outer == 2) log.sweepPoints(_chooser);
        if (outer == 3) {
            vm.prank(sponsor);
            log.fundTask(_badTask, PRICE);
        }
        if (outer == 4) {
            vm.prank(sponsor);
            log.createTask(_chooser, PRICE, CLOSES_AT, "terms", "ipfs://t", PRICE);
        }
        assertEq(hook.hooks(), 1);
        assertTrue(isReentrance(hook.failure()));
        // It went on as if nothing had been tried.
        assertEq(hook.balanceOf(ALICE), outer < 2 ? PRICE : 0);
        assertEq(log.providerOf(_chooser).pointsAccrued, outer == 2 ? 0 : PRICE);
        assertEq(log.taskOf(_badTask).escrow, outer == 3 ? 8 * PRICE : 7 * PRICE);
        assertEq(hook.balanceOf(address(log)), outer < 3 ? 9 * PRICE : 11 * PRICE);
        assertHonestUntouched();
    }

    function test_WhenTheTokenReentersARefund_TheGuardHolds() external {
        HookToken hook = new HookToken();
        choose(address(hook));
        vm.warp(CLOSES_AT + log.SETTLEMENT_GRACE() + 1);
        hook.onTransfer(address(log), reentries()[0]);
        vm.prank(sponsor);
        log.refundTask(_badTask);
        assertTrue(isReentrance(hook.failure()));
        assertEq(hook.balanceOf(sponsor), 7 * PRICE);
        assertEq(hook.balanceOf(address(log)), 3 * PRICE);
    }

    function test_WhenTheTokenReentersAHold_TheGuardHolds() external {
        HookToken hook = new HookToken();
        choose(address(hook));
        hook.onTransfer(address(log), reentries()[0]);
        vm.prank(address(disputes));
        log.hold(_chooser, 0, 0, PRICE);
        assertTrue(isReentrance(hook.failure()));
        assertEq(hook.balanceOf(ALICE), 0);
        assertEq(hook.balanceOf(address(disputes)), PRICE);
        assertHonestUntouched();
    }

    /// P1: anchoring has no guard, and needs none: it may debit what is on its way in, and nothing leaves before it is there.
    function test_WhenABatchIsAnchoredInsideATransfer_TheBooksBalance() external {
        HookToken hook = new HookToken();
        choose(address(hook));
        hook.mint(sponsor, 3 * PRICE);
        Batch memory batch = aPaidBatch(1, _badTask, 4 * PRICE, 6 * PRICE);
        batch.provider = _chooser;
        hook.onTransfer(address(log), abi.encodeCall(log.anchor, (batch, attest(batch))));
        vm.prank(sponsor);
        log.fundTask(_badTask, 3 * PRICE);
        assertEq(log.providerOf(_chooser).nextBatch, 2);
        assertEq(log.taskOf(_badTask).escrow, 0);
        assertEq(log.providerOf(_chooser).pointsAccrued, 5 * PRICE);
        assertEq(hook.balanceOf(address(log)), 5 * PRICE + log.unclaimedOf(_chooser, 0) + log.unclaimedOf(_chooser, 1));
        assertHonestUntouched();
    }

    function oneCall(bytes memory call) private pure returns (bytes[] memory calls) {
        calls = new bytes[](1);
        calls[0] = call;
    }
}
