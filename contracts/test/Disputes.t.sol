// SPDX-License-Identifier: MIT OR Apache-2.0
// Bonds, challenges, rulings, lapses and credits, on every branch; every unit that comes in has exactly one owner.
pragma solidity ^0.8.28;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IERC165} from "@openzeppelin/contracts/interfaces/IERC165.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Dispute, DisputeState, Ground, IDisputes} from "../interfaces/IDisputes.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {Fixture} from "./Fixture.sol";
import {BlocklistToken, FeeToken, HookToken} from "./mocks/Tokens.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

/// @notice An arbiter that is a contract.
contract Court {
    function decide(IDisputes disputes, uint256 disputeId, bool upheld) external {
        disputes.rule(disputeId, upheld, 1, "by vote");
    }
}

abstract contract DisputesFixture is Fixture {
    using StandardMerkleTree for bytes32[];

    uint32 internal constant WINDOW = 7 days;
    bytes32 internal constant EVIDENCE = keccak256("evidence");
    string internal constant URI = "ipfs://evidence";

    address internal challenger = account("challenger");
    address internal contributor = account("contributor");

    function setUp() public virtual override {
        super.setUp();
        vm.prank(provider);
        log.setChallengeWindow(WINDOW);
        aTask(100 * PRICE);
    }

    /* BATCHES */

    /// @dev Accepted to a wallet, accepted for points, rejected: one price each to the first two.
    function threeVerdicts() internal view returns (ProvenanceEvent[] memory events) {
        events = new ProvenanceEvent[](3);
        events[0] = anEvent(0, contributor, PRICE);
        events[1] = anEvent(1, address(0), PRICE);
        events[2] = anEvent(2, address(0), 0);
        events[2].kind = 2;
    }

    function anchorVerdicts() internal returns (uint64 number, ProvenanceEvent[] memory events) {
        events = threeVerdicts();
        number = anchorEvents(events, PRICE, PRICE);
    }

    function anchorEvents(ProvenanceEvent[] memory events, uint128 points, uint128 wallet)
        internal
        returns (uint64 number)
    {
        number = log.providerOf(provider).nextBatch;
        Batch memory batch = aBatch(number);
        if (points + wallet > 0) batch = aPaidBatch(number, 1, points, wallet);
        batch.root = treeOf(events)[0];
        batch.eventCount = uint32(events.length);
        anchor(batch);
    }

    function proofOf(ProvenanceEvent[] memory events, uint256 i) internal view returns (bytes32[] memory) {
        return treeOf(events).proofOf(log.leafOf(events[i]));
    }

    function claimOf(uint64 number, ProvenanceEvent[] memory events, uint256 i) internal {
        log.claim(provider, number, events[i], proofOf(events, i));
    }

    /* DISPUTES */

    function bond(uint128 amount) internal {
        fund(stranger, address(disputes), amount);
        vm.prank(stranger);
        disputes.depositBond(provider, amount);
    }

    function challengeBy(address who, uint64 number, ProvenanceEvent[] memory events, uint256 i)
        internal
        returns (uint256 disputeId)
    {
        bytes32[] memory proof = proofOf(events, i);
        fund(who, address(disputes), PRICE);
        vm.prank(who);
        return disputes.challenge(provider, number, events[i], proof, Ground.Duplicate, EVIDENCE, URI);
    }

    function expectChallengeRevert(
        uint64 number,
        ProvenanceEvent memory e,
        bytes32[] memory proof,
        bytes memory revertData
    ) internal {
        fund(challenger, address(disputes), PRICE);
        vm.expectRevert(revertData);
        vm.prank(challenger);
        disputes.challenge(provider, number, e, proof, Ground.Duplicate, EVIDENCE, URI);
    }

    function ruleOn(uint256 disputeId, bool upheld) internal {
        vm.prank(arbiter);
        disputes.rule(disputeId, upheld, 1, "seen");
    }

    function creditOf(address who) internal view returns (uint256) {
        return disputes.creditOf(address(token), who);
    }

    function stateOf(uint256 disputeId) internal view returns (DisputeState) {
        return disputes.disputeOf(disputeId).state;
    }

    function assertState(uint256 disputeId, DisputeState state) internal view {
        assertEq(uint256(stateOf(disputeId)), uint256(state));
    }

    function text(uint256 length) internal pure returns (string memory) {
        return string(new bytes(length));
    }
}

contract BondsTest is DisputesFixture {
    /* depositBond */

    function test_AnyoneDepositsForAProvider() external {
        fund(stranger, address(disputes), 7);
        vm.expectEmit(address(disputes));
        emit IDisputes.BondDeposited(provider, stranger, 7);
        vm.prank(stranger);
        disputes.depositBond(provider, 7);
        bond(5);

        assertEq(disputes.bondOf(provider), 12);
        assertEq(token.balanceOf(address(disputes)), 12);
    }

    function test_RevertWhen_NothingIsDeposited() external {
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        disputes.depositBond(provider, 0);
    }

    function test_RevertWhen_TheProviderIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IDisputes.ProviderUnknown.selector, stranger));
        disputes.depositBond(stranger, 1);
    }

    function test_RevertWhen_TheDepositorHasTooLittle() external {
        vm.prank(stranger);
        token.approve(address(disputes), 2);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, stranger, 0, 2));
        vm.prank(stranger);
        disputes.depositBond(provider, 2);
    }

    /// P12
    function test_RevertWhen_TheTokenKeepsAFee() external {
        FeeToken fee = new FeeToken();
        address other = account("other");
        registerProvider(other, "other", attestor, address(fee), WINDOW);
        fee.mint(stranger, 10);
        vm.prank(stranger);
        fee.approve(address(disputes), 10);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountReceivedDiffers.selector, 10, 9));
        vm.prank(stranger);
        disputes.depositBond(other, 10);
    }

    /* requestBondWithdrawal */

    function test_ARequestIsPaidAfterTheUnbondingPeriod() external {
        bond(100);
        uint64 withdrawableAt = uint64(NOW) + disputes.UNBONDING_PERIOD();
        vm.expectEmit(address(disputes));
        emit IDisputes.BondWithdrawalRequested(provider, 60, withdrawableAt);
        vm.prank(provider);
        disputes.requestBondWithdrawal(60);
        (uint128 amount, uint64 unlocksAt) = disputes.withdrawalOf(provider);
        assertEq(amount, 60);
        assertEq(unlocksAt, withdrawableAt);

        vm.warp(withdrawableAt - 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WithdrawalTooEarly.selector, withdrawableAt));
        vm.prank(provider);
        disputes.withdrawBond();

        vm.warp(withdrawableAt);
        vm.expectEmit(address(disputes));
        emit IDisputes.BondWithdrawn(provider, 60);
        vm.prank(provider);
        disputes.withdrawBond();
        assertEq(disputes.bondOf(provider), 40);
        assertEq(token.balanceOf(provider), 60);
        assertEq(token.balanceOf(address(disputes)), 40);
    }

    /// P3
    function test_RevertWhen_ARequestIsWithdrawnTwice() external {
        bond(100);
        requestAndWait(60);
        vm.prank(provider);
        disputes.withdrawBond();
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        vm.prank(provider);
        disputes.withdrawBond();
    }

    function test_ANewRequestReplacesTheOneBefore() external {
        bond(100);
        requestAndWait(60);
        vm.prank(provider);
        disputes.requestBondWithdrawal(10);
        (, uint64 withdrawableAt) = disputes.withdrawalOf(provider);
        assertEq(withdrawableAt, NOW + 120 days);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.WithdrawalTooEarly.selector, withdrawableAt));
        vm.prank(provider);
        disputes.withdrawBond();
        vm.warp(withdrawableAt);
        vm.prank(provider);
        disputes.withdrawBond();
        assertEq(token.balanceOf(provider), 10);
    }

    function test_RevertWhen_TheRequestIsZero() external {
        bond(1);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        vm.prank(provider);
        disputes.requestBondWithdrawal(0);
    }

    function test_RevertWhen_TheRequestExceedsTheBond() external {
        bond(100);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BondExceeded.selector, 100, 101));
        vm.prank(provider);
        disputes.requestBondWithdrawal(101);
    }

    /// A depositor for a provider has given its money away.
    function test_RevertWhen_ADepositorAsksForItBack() external {
        bond(100);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BondExceeded.selector, 0, 1));
        vm.prank(stranger);
        disputes.requestBondWithdrawal(1);
    }

    function test_RevertWhen_NothingWasRequested() external {
        bond(100);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        vm.prank(provider);
        disputes.withdrawBond();
    }

    /* slashed meanwhile */

    /// @dev Deposits, announces, and is slashed: by one price for a held reward, by two for one that was paid in points.
    function announceAndSlash(uint128 deposit, uint128 request, uint256 verdict) private {
        bond(deposit);
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.prank(provider);
        disputes.requestBondWithdrawal(request);
        ruleOn(challengeBy(challenger, number, events, verdict), true);
    }

    function assertRequested(uint256 expected) private view {
        (uint128 requested,) = disputes.withdrawalOf(provider);
        assertEq(requested, expected);
    }

    function withdrawInTime() private {
        vm.warp(NOW + disputes.UNBONDING_PERIOD());
        vm.prank(provider);
        disputes.withdrawBond();
    }

    function test_WhatWasSlashedMeanwhileIsNotPaidOut() external {
        announceAndSlash(3 * PRICE, 3 * PRICE, 1);
        assertEq(disputes.bondOf(provider), PRICE);
        withdrawInTime();
        assertEq(token.balanceOf(provider), PRICE);
        assertEq(disputes.bondOf(provider), 0);
    }

    function test_RevertWhen_EverythingRequestedWasSlashed() external {
        announceAndSlash(PRICE, PRICE, 1);
        vm.warp(NOW + disputes.UNBONDING_PERIOD());
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        vm.prank(provider);
        disputes.withdrawBond();
    }

    /// P15: a slashing takes what was announced first; what stands behind the later batches stays.
    function test_WhenSlashed_TheAnnouncedPartGoesFirst() external {
        announceAndSlash(5 * PRICE, 3 * PRICE, 0);
        assertRequested(2 * PRICE);
        withdrawInTime();
        assertEq(token.balanceOf(provider), 2 * PRICE);
        assertEq(disputes.bondOf(provider), 2 * PRICE);
    }

    /// Bond that comes after a slashing does not fall under a request from before it.
    function test_ARequestIsCutToWhatSlashingLeft() external {
        announceAndSlash(3 * PRICE, 3 * PRICE, 1);
        assertRequested(PRICE);
        bond(10 * PRICE);
        withdrawInTime();
        assertEq(token.balanceOf(provider), PRICE);
        assertEq(disputes.bondOf(provider), 10 * PRICE);
    }

    /// P15
    function test_RevertWhen_ADisputeIsOpen() external {
        bond(10 * PRICE);
        vm.prank(provider);
        disputes.requestBondWithdrawal(10 * PRICE);
        vm.warp(NOW + disputes.UNBONDING_PERIOD());
        createTask2();
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts2();
        uint256 first = challengeBy(challenger, number, events, 0);
        uint256 second = challengeBy(challenger, number, events, 1);

        vm.expectRevert(abi.encodeWithSelector(IDisputes.DisputesOpen.selector, 2));
        vm.prank(provider);
        disputes.withdrawBond();
        ruleOn(first, false);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DisputesOpen.selector, 1));
        vm.prank(provider);
        disputes.withdrawBond();
        ruleOn(second, true);
        vm.prank(provider);
        disputes.withdrawBond();
        assertEq(token.balanceOf(provider), 8 * PRICE);
    }

    /// P15: what stood behind a batch when it was anchored still does when the last challenge of it may be ruled on.
    function test_TheUnbondingPeriodOutlastsTheLongestWindowAndRuling() external {
        vm.prank(provider);
        log.setChallengeWindow(30 days);
        bond(2 * PRICE);
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.prank(provider);
        disputes.requestBondWithdrawal(2 * PRICE);
        vm.warp(NOW + 30 days - 1);
        uint256 disputeId = challengeBy(challenger, number, events, 1);
        uint256 lastRuling = disputes.disputeOf(disputeId).ruleBefore - 1;
        assertTrue(lastRuling < NOW + disputes.UNBONDING_PERIOD());
        vm.warp(lastRuling);
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), 2 * PRICE);
    }

    function requestAndWait(uint128 amount) private {
        vm.prank(provider);
        disputes.requestBondWithdrawal(amount);
        vm.warp(NOW + disputes.UNBONDING_PERIOD());
    }

    /// @dev Task 1 has closed by the end of an unbonding period.
    function createTask2() private {
        assertEq(aTask(10 * PRICE), 2);
    }

    function anchorVerdicts2() private returns (uint64 number, ProvenanceEvent[] memory events) {
        events = threeVerdicts();
        for (uint256 i = 0; i < events.length; ++i) {
            events[i].taskId = 2;
        }
        Batch memory batch = aPaidBatch(0, 2, PRICE, PRICE);
        batch.root = treeOf(events)[0];
        batch.eventCount = 3;
        anchor(batch);
        return (0, events);
    }
}

contract ChallengeTest is DisputesFixture {
    using StandardMerkleTree for bytes32[];

    /* what a challenge does */

    /// P2
    function test_WhenTheRewardIsUnpaid_ItIsHeld() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        uint256 held = token.balanceOf(address(log));
        bytes32[] memory proof = proofOf(events, 0);
        fund(challenger, address(disputes), PRICE);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeOpened(
            1,
            provider,
            number,
            0,
            events[0].dataId,
            Ground.NotTheContributors,
            challenger,
            PRICE,
            PRICE,
            uint64(NOW) + disputes.RULING_PERIOD(),
            EVIDENCE,
            URI
        );
        vm.expectEmit(address(log));
        emit IRewardPool.RewardHeld(provider, number, 0, PRICE);
        vm.prank(challenger);
        uint256 disputeId =
            disputes.challenge(provider, number, events[0], proof, Ground.NotTheContributors, EVIDENCE, URI);

        Dispute memory dispute = disputes.disputeOf(disputeId);
        assertState(disputeId, DisputeState.Open);
        assertEq(uint256(dispute.ground), uint256(Ground.NotTheContributors));
        assertEq(dispute.provider, provider);
        assertEq(dispute.number, number);
        assertEq(dispute.index, 0);
        assertEq(dispute.ruleBefore, NOW + 14 days);
        assertEq(dispute.challenger, challenger);
        assertEq(dispute.payee, contributor);
        assertEq(dispute.token, address(token));
        assertEq(dispute.bond, PRICE);
        assertEq(dispute.held, PRICE);
        assertEq(dispute.refund, 0);
        assertEq(disputes.disputeCount(), 1);
        assertEq(disputes.disputeAbout(provider, number, log.leafOf(events[0])), disputeId);
        assertEq(disputes.openDisputesOf(provider), 1);
        assertEq(log.unclaimedOf(provider, number), 0);
        assertTrue(log.isClaimed(provider, number, 0));
        assertEq(token.balanceOf(address(log)), held - PRICE);
        assertEq(token.balanceOf(address(disputes)), 2 * PRICE);
        assertEq(token.balanceOf(challenger), 0);
    }

    function test_WhenTheRewardIsPoints_TheBondWouldRefundIt() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        uint256 disputeId = challengeBy(challenger, number, events, 1);
        Dispute memory dispute = disputes.disputeOf(disputeId);
        assertEq(dispute.payee, address(0));
        assertEq(dispute.held, 0);
        assertEq(dispute.refund, PRICE);
        assertEq(log.unclaimedOf(provider, number), PRICE);
        assertFalse(log.isClaimed(provider, number, 1));
        assertEq(token.balanceOf(address(disputes)), PRICE);
    }

    function test_WhenThereIsNoReward_OnlyTheBondIsTaken() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        Dispute memory dispute = disputes.disputeOf(challengeBy(challenger, number, events, 2));
        assertEq(dispute.payee, address(0));
        assertEq(dispute.held, 0);
        assertEq(dispute.refund, 0);
        assertEq(dispute.bond, PRICE);
    }

    /// A payee without a reward is owed nothing, so it gets no stranger's bond either.
    function test_WhenAPayeeHasNoReward_ItIsNotThePayeeOfTheDispute() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, contributor, 0);
        uint64 number = anchorEvents(events, 0, 0);
        assertEq(disputes.disputeOf(challengeBy(challenger, number, events, 0)).payee, address(0));
    }

    function test_EveryGroundIsRecorded() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        for (uint256 i = 0; i < 3; ++i) {
            bytes32[] memory proof = proofOf(events, i);
            fund(challenger, address(disputes), PRICE);
            vm.prank(challenger);
            uint256 id = disputes.challenge(provider, number, events[i], proof, Ground(i), EVIDENCE, URI);
            assertEq(uint256(disputes.disputeOf(id).ground), i);
        }
        assertEq(disputes.openDisputesOf(provider), 3);
    }

    /* kinds */

    function testFuzz_OnlyVerdictsAreChallenged(uint8 kind) external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, address(0), 0);
        events[0].kind = kind;
        uint64 number = anchorEvents(events, 0, 0);
        if (kind == 1 || kind == 2) {
            assertState(challengeBy(challenger, number, events, 0), DisputeState.Open);
        } else {
            expectChallengeRevert(
                number, events[0], proofOf(events, 0), abi.encodeWithSelector(IDisputes.NotAVerdict.selector, kind)
            );
        }
    }

    function test_RevertWhen_TheEventIsNoVerdict() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](6);
        for (uint32 i = 0; i < 6; ++i) {
            events[i] = anEvent(i, address(0), 0);
            events[i].kind = uint8(i);
        }
        uint64 number = anchorEvents(events, 0, 0);
        for (uint32 i = 0; i < 6; ++i) {
            if (i == 1 || i == 2) continue;
            expectChallengeRevert(
                number, events[i], proofOf(events, i), abi.encodeWithSelector(IDisputes.NotAVerdict.selector, i)
            );
        }
    }

    /* window */

    /// P15
    function test_TheLastSecondOfTheWindow() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.warp(NOW + WINDOW - 1);
        assertState(challengeBy(challenger, number, events, 0), DisputeState.Open);
    }

    /// P15
    function test_RevertWhen_TheWindowIsOver() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.warp(NOW + WINDOW);
        expectChallengeRevert(
            number,
            events[0],
            proofOf(events, 0),
            abi.encodeWithSelector(IDisputes.ChallengeTooLate.selector, provider, number, NOW + WINDOW)
        );
    }

    /// P9: at every second a wallet reward can be challenged or claimed, never both.
    function testFuzz_ARewardIsEitherChallengeableOrClaimable(uint256 wait) external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.warp(NOW + bound(wait, 0, 2 * WINDOW));
        if (block.timestamp < NOW + WINDOW) {
            bytes32[] memory proof = proofOf(events, 0);
            vm.expectRevert(abi.encodeWithSelector(IRewardPool.ClaimTooEarly.selector, provider, number, NOW + WINDOW));
            log.claim(provider, number, events[0], proof);
            challengeBy(challenger, number, events, 0);
        } else {
            expectChallengeRevert(
                number,
                events[0],
                proofOf(events, 0),
                abi.encodeWithSelector(IDisputes.ChallengeTooLate.selector, provider, number, NOW + WINDOW)
            );
            claimOf(number, events, 0);
            assertEq(token.balanceOf(contributor), PRICE);
        }
    }

    function test_RevertWhen_TheProviderHasNoWindow() external {
        vm.prank(provider);
        log.setChallengeWindow(0);
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        expectChallengeRevert(
            number,
            events[0],
            proofOf(events, 0),
            abi.encodeWithSelector(IDisputes.ChallengeTooLate.selector, provider, number, NOW)
        );
        claimOf(number, events, 0);
    }

    /// A provider can't close the window of what is anchored.
    function test_ABatchKeepsItsWindow() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.prank(provider);
        log.setChallengeWindow(0);
        vm.warp(NOW + WINDOW - 1);
        assertState(challengeBy(challenger, number, events, 0), DisputeState.Open);
    }

    function test_RevertWhen_TheBatchIsUnknown() external {
        ProvenanceEvent[] memory events = threeVerdicts();
        expectChallengeRevert(
            9,
            events[0],
            proofOf(events, 0),
            abi.encodeWithSelector(IDisputes.ChallengeTooLate.selector, provider, 9, 0)
        );
    }

    /* proof, and once */

    function test_RevertWhen_TheProofIsOfAnotherEvent() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        expectChallengeRevert(
            number,
            events[0],
            proofOf(events, 1),
            abi.encodeWithSelector(IDisputes.ProofInvalid.selector, provider, number, 0)
        );
    }

    function test_RevertWhen_AFieldDiffers() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        bytes32[] memory proof = proofOf(events, 0);
        events[0].payee = challenger;
        expectChallengeRevert(
            number, events[0], proof, abi.encodeWithSelector(IDisputes.ProofInvalid.selector, provider, number, 0)
        );
    }

    /// P15
    function test_RevertWhen_TheEventWasDisputedBefore() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        for (uint256 i = 0; i < 3; ++i) {
            uint256 disputeId = challengeBy(challenger, number, events, i);
            bytes memory refusal = abi.encodeWithSelector(IDisputes.AlreadyDisputed.selector, disputeId);
            bytes32[] memory proof = proofOf(events, i);
            expectChallengeRevert(number, events[i], proof, refusal);
            ruleOn(disputeId, i == 0);
            expectChallengeRevert(number, events[i], proof, refusal);
        }
    }

    /// P3
    function test_RevertWhen_AHeldRewardIsClaimed() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        uint256 disputeId = challengeBy(challenger, number, events, 0);
        bytes32[] memory proof = proofOf(events, 0);
        vm.warp(NOW + WINDOW);
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, number, 0));
            log.claim(provider, number, events[0], proof);
            if (i == 0) ruleOn(disputeId, false);
        }
    }

    /* tasks */

    function test_RevertWhen_TheTaskIsAnotherProviders() external {
        address other = account("other");
        registerProvider(other, "other", attestor, address(token), WINDOW);
        vm.prank(sponsor);
        uint64 task = log.createTask(other, 1, uint64(NOW + 1 days), 0, "", 0);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, address(0), 0);
        events[0].taskId = task;
        uint64 number = anchorEvents(events, 0, 0);
        expectChallengeRevert(
            number, events[0], proofOf(events, 0), abi.encodeWithSelector(IDisputes.TaskUnknown.selector, task)
        );
    }

    function test_RevertWhen_TheEventNamesNoTask() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, address(0), 0);
        events[0].taskId = 0;
        uint64 number = anchorEvents(events, 0, 0);
        expectChallengeRevert(
            number, events[0], proofOf(events, 0), abi.encodeWithSelector(IDisputes.TaskUnknown.selector, 0)
        );
    }

    /// P15: a wallet reward is never safe from challenges because of the task that its event names.
    function test_WhenAWalletRewardNamesNoTask_TheArbiterNamesWhoPaid() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        events[0] = anEvent(0, contributor, PRICE);
        events[1] = anEvent(1, address(0), PRICE);
        (events[0].taskId, events[1].taskId) = (0, 9);
        uint64 number = anchorEvents(events, PRICE, PRICE);
        uint256 disputeId = challengeBy(challenger, number, events, 0);
        Dispute memory dispute = disputes.disputeOf(disputeId);
        assertEq(dispute.bond, PRICE);
        assertEq(dispute.held, PRICE);
        bond(3 * PRICE);
        ruleOn(disputeId, true);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(disputes.bondOf(provider), 2 * PRICE);
        // points that no task of the provider paid are nobody's loss
        expectChallengeRevert(
            number, events[1], proofOf(events, 1), abi.encodeWithSelector(IDisputes.TaskUnknown.selector, 9)
        );
    }

    /// A wallet reward above the named task's price is worth a bounty as large.
    function test_TheBondIsAtLeastAWalletReward() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, contributor, 3 * PRICE);
        uint64 number = anchorEvents(events, 0, 3 * PRICE);
        fund(challenger, address(disputes), 2 * PRICE);
        uint256 disputeId = challengeBy(challenger, number, events, 0);
        assertEq(disputes.disputeOf(disputeId).bond, 3 * PRICE);
        assertEq(token.balanceOf(address(disputes)), 6 * PRICE);
    }

    /// P15: a decoy with the same index, disputed first, does not make another event safe.
    function test_TwoEventsWithOneIndexAreDisputedApart() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        events[0] = anEvent(0, address(0), 0);
        events[1] = anEvent(0, contributor, PRICE);
        uint64 number = anchorEvents(events, 0, PRICE);
        challengeBy(stranger, number, events, 0);
        uint256 disputeId = challengeBy(challenger, number, events, 1);
        assertEq(disputes.disputeOf(disputeId).held, PRICE);
        assertTrue(log.isClaimed(provider, number, 0));
    }

    /// An absurd reward in points can't empty the bond.
    function test_TheRefundIsAtMostThePrice() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        events[0] = anEvent(0, address(0), 1000 * PRICE);
        events[1] = anEvent(1, address(0), PRICE - 1);
        uint64 number = anchorEvents(events, 0, 0);
        assertEq(disputes.disputeOf(challengeBy(challenger, number, events, 0)).refund, PRICE);
        assertEq(disputes.disputeOf(challengeBy(challenger, number, events, 1)).refund, PRICE - 1);
    }

    /* an attestor that is not honest */

    /// @dev A task of the provider that an accomplice made, with any price and no escrow.
    function accomplicesTask(uint128 price) private returns (uint64) {
        vm.prank(stranger);
        return log.createTask(provider, price, uint64(NOW + 1), 0, "", 0);
    }

    /// P15: a price that nobody paid does not make a challenge dear.
    function test_WhenTheEventNamesADearTask_TheBondIsTheReward() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        (events[0], events[1]) = (anEvent(0, contributor, PRICE), anEvent(1, address(0), PRICE));
        events[0].taskId = events[1].taskId = accomplicesTask(type(uint128).max);
        uint64 number = anchorEvents(events, PRICE, PRICE);
        for (uint256 i = 0; i < 2; ++i) {
            assertEq(disputes.disputeOf(challengeBy(challenger, number, events, i)).bond, PRICE);
        }
    }

    /// P15: whose task was debited, not whose the event names, is paid back.
    function test_WhenTheEventNamesAnAccomplicesTask_TheDebitedSponsorIsPaidBack() external {
        bond(4 * PRICE);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](3);
        (events[0], events[1]) = (anEvent(0, contributor, PRICE), anEvent(1, address(0), PRICE));
        events[2] = anEvent(2, contributor, PRICE);
        events[0].taskId = events[1].taskId = accomplicesTask(PRICE);
        events[2].taskId = 0;
        uint64 number = anchorEvents(events, PRICE, 2 * PRICE);
        for (uint256 i = 0; i < 3; ++i) {
            ruleOn(challengeBy(challenger, number, events, i), true);
            assertEq(creditOf(sponsor), (i + 1) * PRICE);
        }
        assertEq(creditOf(stranger), 0);
    }

    /// P15: a refund is at most the price of the task that the arbiter names.
    function test_WhenTheNamedTaskIsCheaper_TheRefundIsItsPrice() external {
        bond(10 * PRICE);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, address(0), 5 * PRICE);
        events[0].taskId = accomplicesTask(type(uint128).max);
        uint64 number = anchorEvents(events, PRICE, 0);
        fund(challenger, address(disputes), 4 * PRICE);
        ruleOn(challengeBy(challenger, number, events, 0), true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), 9 * PRICE + PRICE);
    }

    function test_RevertWhen_TheArbiterNamesAnotherProvidersTask() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        uint256 disputeId = challengeBy(challenger, number, events, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TaskUnknown.selector, 99));
        vm.prank(arbiter);
        disputes.rule(disputeId, true, 99, "");
        vm.prank(arbiter);
        disputes.rule(disputeId, false, 99, "");
    }

    /// P15: what no challenge can be about is not paid either.
    function test_RevertWhen_ARewardThatNobodyCanChallengeIsClaimed() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, contributor, PRICE);
        for (uint8 kind = 0; kind < 6; ++kind) {
            if (kind == 1) continue;
            events[0].kind = kind;
            uint64 number = anchorEvents(events, 0, PRICE);
            bytes32[] memory proof = proofOf(events, 0);
            vm.warp(block.timestamp + WINDOW);
            vm.expectRevert(abi.encodeWithSelector(IRewardPool.NotAccepted.selector, events[0].dataId, kind));
            log.claim(provider, number, events[0], proof);
        }
    }

    /// P15: nor what the claim reads and the challenge cannot decode.
    function test_RevertWhen_ALeafHasDirtyBits() external {
        bytes[13] memory calls;
        for (uint256 word = 0; word < 13; ++word) {
            if (word > 3 && word < 9) continue;
            bytes memory words = abi.encode(anEvent(0, contributor, PRICE));
            words[32 * word + (word == 1 ? 31 : 0)] = 0x80;
            Batch memory batch = aPaidBatch(log.providerOf(provider).nextBatch, 1, 0, PRICE);
            batch.root = keccak256(bytes.concat(keccak256(words)));
            anchor(batch);
            calls[word] = bytes.concat(
                IRewardPool.claim.selector,
                abi.encode(provider, batch.number),
                words,
                abi.encode(uint256(16 * 32), uint256(0))
            );
        }
        vm.warp(NOW + WINDOW);
        for (uint256 word = 0; word < 13; ++word) {
            (bool ok,) = address(log).call(calls[word]);
            assertFalse(ok);
        }
        assertEq(token.balanceOf(contributor), 0);
    }

    /// P15: a proof that fits into a claim but not into a challenge is no proof.
    function test_RevertWhen_TheProofIsLongerThanABatchCanBe() external {
        ProvenanceEvent memory e = anEvent(0, contributor, PRICE);
        bytes32 root = log.leafOf(e);
        bytes32[] memory proof = new bytes32[](33);
        for (uint256 i = 0; i < 33; ++i) {
            proof[i] = bytes32(type(uint256).max - i);
            root = root < proof[i]
                ? keccak256(abi.encodePacked(root, proof[i]))
                : keccak256(abi.encodePacked(proof[i], root));
        }
        uint64 number = log.providerOf(provider).nextBatch;
        Batch memory batch = aPaidBatch(number, 1, 0, PRICE);
        batch.root = root;
        anchor(batch);
        vm.warp(NOW + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProofInvalid.selector, provider, number, 0));
        log.claim(provider, number, e, proof);
    }

    /* texts */

    function test_TheLongestEvidenceUri() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        bytes32[] memory proof = proofOf(events, 0);
        fund(challenger, address(disputes), PRICE);
        vm.prank(challenger);
        disputes.challenge(provider, number, events[0], proof, Ground.Duplicate, EVIDENCE, text(256));
    }

    function test_RevertWhen_TheEvidenceUriIsTooLong() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        bytes32[] memory proof = proofOf(events, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TextTooLong.selector, 257, 256));
        vm.prank(challenger);
        disputes.challenge(provider, number, events[0], proof, Ground.Duplicate, EVIDENCE, text(257));
    }

    /* money */

    function test_RevertWhen_TheChallengerHasNoBond() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        bytes32[] memory proof = proofOf(events, 0);
        vm.prank(challenger);
        token.approve(address(disputes), PRICE);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, challenger, 0, PRICE));
        vm.prank(challenger);
        disputes.challenge(provider, number, events[0], proof, Ground.Duplicate, EVIDENCE, URI);
    }

    /// P2, P15: what the batch cannot pay is not held; the verdict is as open to a challenge, for a price, as any other.
    function test_WhenTheBatchPromisesMoreThanItHolds_NothingIsHeld() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](3);
        events[0] = anEvent(0, contributor, PRICE);
        events[1] = anEvent(1, contributor, type(uint128).max);
        events[2] = anEvent(2, contributor, 1);
        uint64 number = anchorEvents(events, 0, PRICE);
        bond(3 * PRICE);
        challengeBy(challenger, number, events, 0);
        uint256 disputeId = challengeBy(challenger, number, events, 1);
        Dispute memory dispute = disputes.disputeOf(disputeId);
        assertEq(dispute.bond, PRICE);
        assertEq(dispute.held, 0);
        assertEq(dispute.refund, PRICE);
        assertFalse(log.isClaimed(provider, number, 1));
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(disputes.bondOf(provider), PRICE);
        disputeId = challengeBy(challenger, number, events, 2);
        assertEq(disputes.disputeOf(disputeId).refund, 1);
        assertEq(disputes.disputeOf(disputeId).bond, 1);
        ruleOn(disputeId, false);
        assertEq(creditOf(contributor), 0);
        assertEq(disputes.bondOf(provider), PRICE + 1);
        // nor is it paid, and the other batches' rewards and the escrow stay
        vm.warp(NOW + WINDOW);
        bytes32[] memory proof = proofOf(events, 2);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, number, 0, 1));
        log.claim(provider, number, events[2], proof);
        assertEq(token.balanceOf(address(log)), 99 * PRICE);
    }

    /// P3, P15: a decoy with the same index has the reward taken; the other event can be challenged all the same.
    function test_WhenAnotherEventWithItsIndexWasHeld_NothingIsHeld() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        events[0] = anEvent(0, stranger, PRICE);
        events[1] = anEvent(0, contributor, PRICE);
        uint64 number = anchorEvents(events, 0, 2 * PRICE);
        challengeBy(challenger, number, events, 0);
        Dispute memory dispute = disputes.disputeOf(challengeBy(challenger, number, events, 1));
        assertEq(dispute.held, 0);
        assertEq(dispute.refund, PRICE);
        assertEq(log.unclaimedOf(provider, number), PRICE);
    }

    /// A reward that is neither backed nor of a task of the provider is nobody's loss.
    function test_RevertWhen_AnUnbackedRewardNamesNoTask() external {
        ProvenanceEvent[] memory events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, contributor, PRICE + 1);
        events[0].taskId = 0;
        uint64 number = anchorEvents(events, 0, PRICE);
        expectChallengeRevert(
            number, events[0], proofOf(events, 0), abi.encodeWithSelector(IDisputes.TaskUnknown.selector, 0)
        );
    }

    /* hold */

    /// P9
    function testFuzz_OnlyDisputesHolds(address caller, uint128 amount) external {
        vm.assume(caller != address(disputes));
        (uint64 number,) = anchorVerdicts();
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlyDisputes.selector, caller));
        vm.prank(caller);
        log.hold(provider, number, 0, amount);
    }

    function test_RevertWhen_HoldIsAskedOfWhatIsGone() external {
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        vm.warp(NOW + WINDOW);
        claimOf(number, events, 0);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.AlreadyClaimed.selector, provider, number, 0));
        vm.prank(address(disputes));
        log.hold(provider, number, 0, PRICE);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.BatchRewardsExceeded.selector, provider, number, 0, 1));
        vm.prank(address(disputes));
        log.hold(provider, number, 1, 1);
    }

    /* the rest of the contract */

    function test_Interfaces() external view {
        assertTrue(disputes.supportsInterface(type(IDisputes).interfaceId));
        assertTrue(disputes.supportsInterface(type(IERC165).interfaceId));
        assertFalse(disputes.supportsInterface(0xffffffff));
        assertEq(disputes.RULING_PERIOD(), 14 days);
        assertEq(disputes.UNBONDING_PERIOD(), 60 days);
    }

    /// P10
    function test_PausingTheLogStopsNoDispute() external {
        bond(4 * PRICE);
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        uint256 before = challengeBy(challenger, number, events, 0);
        vm.prank(pauser);
        log.pause();
        vm.prank(pauser);
        licenses.pause();

        bond(1);
        uint256 first = challengeBy(challenger, number, events, 1);
        uint256 second = challengeBy(challenger, number, events, 2);
        ruleOn(before, true);
        ruleOn(first, false);
        vm.prank(provider);
        disputes.requestBondWithdrawal(1);
        vm.warp(NOW + 60 days);
        disputes.lapse(second);
        disputes.payCredit(address(token), challenger);
        vm.prank(provider);
        disputes.withdrawBond();
    }
}

contract RulingTest is DisputesFixture {
    uint64 private _number;
    ProvenanceEvent[] private _events;

    function setUp() public override {
        super.setUp();
        _number = log.providerOf(provider).nextBatch;
        ProvenanceEvent[] memory events = threeVerdicts();
        for (uint256 i = 0; i < 3; ++i) {
            _events.push(events[i]);
        }
        anchorEvents(events, PRICE, PRICE);
    }

    function dispute(uint256 i) private returns (uint256) {
        return challengeBy(challenger, _number, _events, i);
    }

    /* who */

    /// P17
    function testFuzz_OnlyTheArbiterRules(address caller, bool upheld) external {
        vm.assume(caller != arbiter);
        uint256 disputeId = dispute(0);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller));
        vm.prank(caller);
        disputes.rule(disputeId, upheld, 1, "");
    }

    /// P17
    function test_RevertWhen_AnyoneElseOfTheStoryRules() external {
        uint256 disputeId = dispute(0);
        address[8] memory others = [admin, pauser, provider, attestor, operator, sponsor, challenger, contributor];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, others[i]));
            vm.prank(others[i]);
            disputes.rule(disputeId, true, 1, "");
        }
    }

    function test_AContractRules() external {
        Court court = new Court();
        vm.prank(admin);
        authority.grantRole(ARBITER, address(court), 0);
        uint256 disputeId = dispute(0);
        court.decide(disputes, disputeId, true);
        assertState(disputeId, DisputeState.Upheld);
    }

    /* upheld */

    function test_WhenUpheldOverAHeldReward_TheSponsorGetsItAndTheChallengerABounty() external {
        bond(3 * PRICE);
        uint256 disputeId = dispute(0);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Upheld, sponsor, 0, PRICE, "a copy");
        vm.prank(arbiter);
        disputes.rule(disputeId, true, 1, "a copy");
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(creditOf(contributor), 0);
        assertEq(disputes.bondOf(provider), 2 * PRICE);
        assertEq(disputes.openDisputesOf(provider), 0);
        assertState(disputeId, DisputeState.Upheld);
    }

    function test_WhenUpheldOverPoints_TheBondRefundsTheSponsorFirst() external {
        bond(3 * PRICE);
        uint256 disputeId = dispute(1);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Upheld, sponsor, PRICE, PRICE, "seen");
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(disputes.bondOf(provider), PRICE);
    }

    function test_WhenUpheldOverARejection_OnlyTheBountyIsSlashed() external {
        bond(3 * PRICE);
        ruleOn(dispute(2), true);
        assertEq(creditOf(sponsor), 0);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(disputes.bondOf(provider), 2 * PRICE);
    }

    function test_WhenTheBondCoversAPartOfTheBounty() external {
        bond(PRICE + 7);
        uint256 disputeId = dispute(1);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Upheld, sponsor, PRICE, 7, "seen");
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), PRICE + 7);
        assertEq(disputes.bondOf(provider), 0);
    }

    function test_WhenTheBondCoversAPartOfTheRefund() external {
        bond(7);
        uint256 disputeId = dispute(1);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Upheld, sponsor, 7, 0, "seen");
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), 7);
        assertEq(creditOf(challenger), PRICE);
        assertEq(disputes.bondOf(provider), 0);
    }

    function test_WhenThereIsNoBond_TheChallengerGetsItsOwnBackAndTheSponsorTheHeldReward() external {
        uint256 disputeId = dispute(0);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Upheld, sponsor, 0, 0, "seen");
        ruleOn(disputeId, true);
        assertEq(creditOf(sponsor), PRICE);
        assertEq(creditOf(challenger), PRICE);
        assertEq(token.balanceOf(address(disputes)), 2 * PRICE);
    }

    /* rejected */

    /// P9
    function test_WhenRejected_ThePayeeGetsItsRewardAndTheBond() external {
        bond(PRICE);
        uint256 disputeId = dispute(0);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(disputeId, DisputeState.Rejected, address(0), 0, 0, "seen");
        ruleOn(disputeId, false);
        assertEq(creditOf(contributor), 2 * PRICE);
        assertEq(creditOf(challenger), 0);
        assertEq(disputes.bondOf(provider), PRICE);
        assertEq(disputes.openDisputesOf(provider), 0);
        assertState(disputeId, DisputeState.Rejected);
    }

    function test_WhenRejectedWithoutAPayee_TheBondJoinsTheAttestors() external {
        bond(PRICE);
        ruleOn(dispute(1), false);
        assertEq(disputes.bondOf(provider), 2 * PRICE);
        ruleOn(dispute(2), false);
        assertEq(disputes.bondOf(provider), 3 * PRICE);
        assertEq(creditOf(challenger), 0);
    }

    /* when */

    /// P15
    function test_TheLastSecondOfTheRulingPeriod() external {
        uint256 disputeId = dispute(0);
        vm.warp(disputes.disputeOf(disputeId).ruleBefore - 1);
        ruleOn(disputeId, true);
        assertState(disputeId, DisputeState.Upheld);
    }

    /// P15
    function test_RevertWhen_TheRulingIsTooLate() external {
        uint256 disputeId = dispute(0);
        uint64 ruleBefore = disputes.disputeOf(disputeId).ruleBefore;
        vm.warp(ruleBefore);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.RulingTooLate.selector, disputeId, ruleBefore));
        ruleOn(disputeId, true);
    }

    /// P15
    function test_RevertWhen_TheDisputeHasEnded() external {
        uint256[3] memory ids = [dispute(0), dispute(1), dispute(2)];
        ruleOn(ids[0], true);
        ruleOn(ids[1], false);
        vm.warp(NOW + 14 days);
        disputes.lapse(ids[2]);
        DisputeState[3] memory states = [DisputeState.Upheld, DisputeState.Rejected, DisputeState.Lapsed];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory refusal = abi.encodeWithSelector(IDisputes.DisputeNotOpen.selector, ids[i], states[i]);
            vm.expectRevert(refusal);
            ruleOn(ids[i], true);
            vm.expectRevert(refusal);
            ruleOn(ids[i], false);
            vm.expectRevert(refusal);
            disputes.lapse(ids[i]);
        }
    }

    function test_RevertWhen_TheDisputeIsUnknown() external {
        for (uint256 id = 0; id < 2; ++id) {
            bytes memory refusal = abi.encodeWithSelector(IDisputes.DisputeNotOpen.selector, id, DisputeState.None);
            vm.expectRevert(refusal);
            ruleOn(id, true);
            vm.expectRevert(refusal);
            disputes.lapse(id);
        }
    }

    function test_TheLongestReason() external {
        uint256 disputeId = dispute(0);
        vm.prank(arbiter);
        disputes.rule(disputeId, true, 1, text(256));
    }

    function test_RevertWhen_TheReasonIsTooLong() external {
        uint256 disputeId = dispute(0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TextTooLong.selector, 257, 256));
        vm.prank(arbiter);
        disputes.rule(disputeId, true, 1, text(257));
    }

    /* lapse */

    /// P9, P15
    function test_WhenNobodyRules_EverybodyGetsItsOwnBack() external {
        bond(PRICE);
        uint256 held = dispute(0);
        uint256 points = dispute(1);
        vm.warp(NOW + 14 days);
        vm.expectEmit(address(disputes));
        emit IDisputes.DisputeEnded(held, DisputeState.Lapsed, address(0), 0, 0, "");
        vm.prank(stranger);
        disputes.lapse(held);
        assertEq(creditOf(contributor), PRICE);
        assertEq(creditOf(challenger), PRICE);
        disputes.lapse(points);
        assertEq(creditOf(challenger), 2 * PRICE);
        assertEq(creditOf(sponsor), 0);
        assertEq(creditOf(address(0)), 0);
        assertEq(disputes.bondOf(provider), PRICE);
        assertEq(disputes.openDisputesOf(provider), 0);
        assertState(points, DisputeState.Lapsed);
    }

    /// P15
    function test_RevertWhen_ItLapsesTooEarly() external {
        uint256 disputeId = dispute(0);
        uint64 ruleBefore = disputes.disputeOf(disputeId).ruleBefore;
        vm.warp(ruleBefore - 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.RulingPending.selector, disputeId, ruleBefore));
        disputes.lapse(disputeId);
    }

    /* payCredit */

    /// P3
    function test_AnyoneHasACreditPaidToItsOwnerOnce() external {
        ruleOn(dispute(0), false);
        vm.expectEmit(address(disputes));
        emit IDisputes.CreditPaid(address(token), contributor, 2 * PRICE);
        vm.prank(stranger);
        assertEq(disputes.payCredit(address(token), contributor), 2 * PRICE);
        assertEq(token.balanceOf(contributor), 2 * PRICE);
        assertEq(token.balanceOf(stranger), 0);
        assertEq(creditOf(contributor), 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        disputes.payCredit(address(token), contributor);
    }

    function test_CreditsAddUp() external {
        bond(10 * PRICE);
        ruleOn(dispute(0), true);
        ruleOn(dispute(1), true);
        ruleOn(dispute(2), true);
        assertEq(disputes.payCredit(address(token), challenger), 6 * PRICE);
        assertEq(disputes.payCredit(address(token), sponsor), 2 * PRICE);
        assertEq(disputes.bondOf(provider), 6 * PRICE);
        assertEq(token.balanceOf(address(disputes)), 6 * PRICE);
    }
}

/// Providers whose token misbehaves; the other provider, with another token, must not notice.
contract DisputesTokensTest is DisputesFixture {
    address private _other = account("other");

    /// @dev A provider with that token, a task of its and a batch with one wallet reward in it.
    function anchorOf(address itsToken) private returns (ProvenanceEvent[] memory events) {
        registerProvider(_other, "other", attestor, itsToken, WINDOW);
        vm.prank(sponsor);
        ERC20(itsToken).approve(address(log), PRICE);
        vm.prank(sponsor);
        uint64 task = log.createTask(_other, PRICE, uint64(NOW + 30 days), 0, "", PRICE);
        events = new ProvenanceEvent[](1);
        events[0] = anEvent(0, contributor, PRICE);
        events[0].taskId = task;
        Batch memory batch = aPaidBatch(0, task, 0, PRICE);
        batch.provider = _other;
        batch.root = treeOf(events)[0];
        anchor(batch);
        vm.prank(challenger);
        ERC20(itsToken).approve(address(disputes), type(uint256).max);
    }

    function challengeOther(ProvenanceEvent[] memory events) private returns (uint256) {
        vm.prank(challenger);
        return disputes.challenge(_other, 0, events[0], new bytes32[](0), Ground.Duplicate, EVIDENCE, URI);
    }

    /// P12
    function test_ABlockedAccountStopsOnlyItsOwnCredit() external {
        BlocklistToken blocklist = new BlocklistToken();
        blocklist.mint(sponsor, PRICE);
        blocklist.mint(challenger, PRICE);
        uint256 disputeId = challengeOther(anchorOf(address(blocklist)));
        blocklist.setBlocked(contributor, true);
        ruleOn(disputeId, false);
        assertState(disputeId, DisputeState.Rejected);
        vm.expectRevert(abi.encodeWithSelector(BlocklistToken.Blocked.selector, contributor));
        disputes.payCredit(address(blocklist), contributor);
        assertEq(disputes.creditOf(address(blocklist), contributor), 2 * PRICE);

        // the other provider's disputes go on
        (uint64 number, ProvenanceEvent[] memory events) = anchorVerdicts();
        ruleOn(challengeBy(challenger, number, events, 0), false);
        assertEq(disputes.payCredit(address(token), contributor), 2 * PRICE);

        blocklist.setBlocked(contributor, false);
        assertEq(disputes.payCredit(address(blocklist), contributor), 2 * PRICE);
    }

    /// P12
    function test_ACreditInOneTokenIsNotPaidInAnother() external {
        BlocklistToken blocklist = new BlocklistToken();
        blocklist.mint(sponsor, PRICE);
        blocklist.mint(challenger, PRICE);
        ruleOn(challengeOther(anchorOf(address(blocklist))), false);
        bond(10 * PRICE);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AmountZero.selector));
        disputes.payCredit(address(token), contributor);
    }

    /// P12
    function test_AReentrantTokenGetsNothingTwice() external {
        HookToken hook = new HookToken();
        hook.mint(sponsor, PRICE);
        hook.mint(challenger, PRICE);
        ProvenanceEvent[] memory events = anchorOf(address(hook));
        bytes memory entered = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);

        // while the challenger's bond is on its way
        hook.onTransfer(
            address(disputes),
            abi.encodeCall(
                disputes.challenge, (_other, 0, events[0], new bytes32[](0), Ground.Duplicate, EVIDENCE, URI)
            )
        );
        uint256 disputeId = challengeOther(events);
        assertEq(keccak256(hook.failure()), keccak256(entered));
        assertEq(disputes.disputeCount(), 1);
        assertEq(hook.balanceOf(address(disputes)), 2 * PRICE);

        ruleOn(disputeId, false);
        hook.onTransfer(address(disputes), abi.encodeCall(disputes.payCredit, (address(hook), contributor)));
        disputes.payCredit(address(hook), contributor);
        assertEq(keccak256(hook.failure()), keccak256(entered));
        assertEq(hook.balanceOf(contributor), 2 * PRICE);
        assertEq(hook.balanceOf(address(disputes)), 0);
    }

    /// P12
    function test_AReentrantTokenCantDepositOrWithdrawTwice() external {
        HookToken hook = new HookToken();
        hook.mint(sponsor, PRICE);
        anchorOf(address(hook));
        hook.mint(_other, 10);
        vm.prank(_other);
        hook.approve(address(disputes), 10);
        bytes memory entered = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);

        hook.onTransfer(address(disputes), abi.encodeCall(disputes.depositBond, (_other, 10)));
        vm.prank(_other);
        disputes.depositBond(_other, 10);
        assertEq(keccak256(hook.failure()), keccak256(entered));
        assertEq(disputes.bondOf(_other), 10);

        vm.prank(_other);
        disputes.requestBondWithdrawal(10);
        vm.warp(NOW + 60 days);
        hook.onTransfer(address(disputes), abi.encodeCall(disputes.withdrawBond, ()));
        vm.prank(_other);
        disputes.withdrawBond();
        assertEq(keccak256(hook.failure()), keccak256(entered));
        assertEq(hook.balanceOf(_other), 10);
        assertEq(hook.balanceOf(address(disputes)), 0);
    }
}

/// Random sequences beside a model that says who owns every unit.
contract DisputesModelTest is DisputesFixture {
    uint256 private constant STEPS = 32;
    uint64 private constant BATCHES_MAX = 4;
    uint32 private constant EVENTS = 4;

    /// What the model knows of a dispute.
    struct Case {
        bool open;
        address challenger;
        /// 0 where the reward is none or points.
        address payee;
        uint256 held;
        uint256 refund;
        uint256 ruleBefore;
    }

    address[5] private _accounts;
    ProvenanceEvent[][] private _batches;
    uint256[] private _anchoredAt;
    Case[] private _cases;
    mapping(address account => uint256) private _credits;
    uint256 private _bond;
    uint256 private _requested;
    uint256 private _unlocksAt;
    uint256 private _open;
    /// For the optimizer takes block.timestamp to stay the same during a call.
    uint256 private _clock = NOW;

    function setUp() public override {
        super.setUp();
        _accounts = [challenger, account("second challenger"), contributor, account("second contributor"), sponsor];
        _cases.push();
        anchorRandom(1);
    }

    /// P1, P9, P15
    /// forge-config: default.fuzz.runs = 128
    function testFuzz_EveryUnitHasOneOwner(uint256 seed) external {
        for (uint256 step = 0; step < STEPS; ++step) {
            seed = uint256(keccak256(abi.encode(seed, step)));
            uint256 action = seed % 10;
            uint256 random = seed >> 8;
            if (action < 3) challengeRandom(random);
            else if (action < 5) ruleRandom(random);
            else if (action == 5) payRandom(random);
            else if (action == 6) moveBond(random);
            else if (action == 7) lapseRandom(random);
            else if (action == 8) wait(bound(random, 1 hours, 5 days));
            else anchorRandom(random);
            check();
        }
        windUp();
    }

    /* ACTIONS */

    function wait(uint256 time) private {
        _clock += time;
        vm.warp(_clock);
    }

    function anchorRandom(uint256 random) private {
        if (_batches.length == BATCHES_MAX || _clock > NOW + 30 days) return;
        ProvenanceEvent[] storage kept = _batches.push();
        ProvenanceEvent[] memory events = new ProvenanceEvent[](EVENTS);
        (uint128 points, uint128 wallet) = (0, 0);
        for (uint32 i = 0; i < EVENTS; ++i) {
            uint256 kind = (random >> (2 * i)) % 4;
            if (kind < 2) (events[i], wallet) = (anEvent(i, _accounts[2 + kind], PRICE), wallet + PRICE);
            else if (kind == 2) (events[i], points) = (anEvent(i, address(0), PRICE), points + PRICE);
            else (events[i] = anEvent(i, address(0), 0)).kind = 2;
            kept.push(events[i]);
        }
        _anchoredAt.push(_clock);
        anchorEvents(events, points, wallet);
    }

    function challengeRandom(uint256 random) private {
        uint64 number = uint64(random % _batches.length);
        uint32 index = uint32((random >> 64) % EVENTS);
        if (_clock >= _anchoredAt[number] + WINDOW) return;
        if (disputes.disputeAbout(provider, number, log.leafOf(_batches[number][index])) != 0) return;
        address who = _accounts[(random >> 128) % 2];
        ProvenanceEvent memory e = _batches[number][index];
        bool inWallet = e.payee != address(0);
        _cases.push(
            Case({
                open: true,
                challenger: who,
                payee: e.payee,
                held: inWallet ? e.reward : 0,
                refund: inWallet ? 0 : e.reward,
                ruleBefore: _clock + 14 days
            })
        );
        ++_open;
        assertEq(challengeBy(who, number, _batches[number], index), _cases.length - 1);
    }

    function ruleRandom(uint256 random) private {
        (uint256 id, Case storage it) = openCase(random);
        if (id == 0 || _clock >= it.ruleBefore) return;
        bool upheld = (random >> 128) % 2 == 0;
        if (upheld) {
            uint256 refund = it.refund < _bond ? it.refund : _bond;
            uint256 bounty = PRICE < _bond - refund ? PRICE : _bond - refund;
            _bond -= refund + bounty;
            if (_requested > _bond) _requested = _bond;
            _requested = _requested > refund + bounty ? _requested - refund - bounty : 0;
            _credits[sponsor] += refund + it.held;
            _credits[it.challenger] += PRICE + bounty;
        } else if (it.payee != address(0)) {
            _credits[it.payee] += it.held + PRICE;
        } else {
            _bond += PRICE;
        }
        end(it);
        ruleOn(id, upheld);
    }

    function lapseRandom(uint256 random) private {
        (uint256 id, Case storage it) = openCase(random);
        if (id != 0 && _clock >= it.ruleBefore) lapse(id);
    }

    function lapse(uint256 id) private {
        Case storage it = _cases[id];
        _credits[it.challenger] += PRICE;
        _credits[it.payee] += it.held;
        end(it);
        disputes.lapse(id);
    }

    function payRandom(uint256 random) private {
        address who = _accounts[random % _accounts.length];
        if (_credits[who] > 0) pay(who);
    }

    function pay(address who) private {
        uint256 before = token.balanceOf(who);
        assertEq(disputes.payCredit(address(token), who), _credits[who]);
        assertEq(token.balanceOf(who), before + _credits[who]);
        _credits[who] = 0;
    }

    function moveBond(uint256 random) private {
        uint256 amount = (random >> 8) % (2 * PRICE) + 1;
        if (random % 3 > 0) {
            bond(uint128(amount));
            _bond += amount;
        } else if (_requested > 0 && _bond > 0 && _open == 0 && _clock >= _unlocksAt) {
            vm.prank(provider);
            disputes.withdrawBond();
            _bond -= _requested < _bond ? _requested : _bond;
            _requested = 0;
        } else if (_bond > 0) {
            _requested = amount < _bond ? amount : _bond;
            _unlocksAt = _clock + 60 days;
            vm.prank(provider);
            disputes.requestBondWithdrawal(uint128(_requested));
            if (random % 2 == 0) wait(60 days);
        }
    }

    /* MODEL */

    function openCase(uint256 random) private view returns (uint256 id, Case storage it) {
        for (uint256 i = 0; i < _cases.length; ++i) {
            id = (random + i) % _cases.length;
            if (_cases[id].open) return (id, _cases[id]);
        }
        return (0, _cases[0]);
    }

    function end(Case storage it) private {
        it.open = false;
        --_open;
    }

    function check() private view {
        uint256 owed = _bond;
        for (uint256 i = 0; i < _accounts.length; ++i) {
            assertEq(creditOf(_accounts[i]), _credits[_accounts[i]]);
            owed += _credits[_accounts[i]];
        }
        for (uint256 id = 1; id < _cases.length; ++id) {
            if (_cases[id].open) owed += PRICE + _cases[id].held;
        }
        assertEq(disputes.bondOf(provider), _bond);
        assertEq(disputes.openDisputesOf(provider), _open);
        assertEq(token.balanceOf(address(disputes)), owed);

        uint256 inLog = log.taskOf(1).escrow + log.providerOf(provider).pointsAccrued;
        for (uint64 number = 0; number < _batches.length; ++number) {
            inLog += log.unclaimedOf(provider, number);
        }
        assertEq(token.balanceOf(address(log)), inLog);
    }

    /// @dev Ends every dispute, pays every credit, claims every reward: nothing but bond stays in Disputes.
    function windUp() private {
        wait(14 days);
        for (uint256 id = 1; id < _cases.length; ++id) {
            if (_cases[id].open) lapse(id);
        }
        for (uint256 i = 0; i < _accounts.length; ++i) {
            if (_credits[_accounts[i]] > 0) pay(_accounts[i]);
        }
        assertEq(token.balanceOf(address(disputes)), _bond);
        for (uint64 number = 0; number < _batches.length; ++number) {
            for (uint32 index = 0; index < EVENTS; ++index) {
                if (_batches[number][index].payee == address(0)) continue;
                if (!log.isClaimed(provider, number, index)) claimOf(number, _batches[number], index);
            }
            assertEq(log.unclaimedOf(provider, number), 0);
        }
        check();
    }
}
