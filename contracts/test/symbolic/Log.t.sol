// SPDX-License-Identifier: MIT OR Apache-2.0
// Symbolic proofs about the log's money: tasks, anchors, claims, held rewards and points.
pragma solidity ^0.8.28;

import {Batch, ProvenanceEvent, TaskDebit} from "../../interfaces/IProvenanceLog.sol";
import {Ground} from "../../interfaces/IDisputes.sol";
import {Proof} from "./Proof.sol";

contract LogProofs is Proof {
    /// @dev P1, P4: an anchor takes from the escrows what it owes to wallets and points, for two debits and after an earlier
    /// batch; it moves no token and leaves the batch before as it was.
    function check_AnchorMovesEachUnitOnce(
        uint128 escrow1,
        uint128 escrow2,
        uint128 debit1,
        uint128 debit2,
        uint128 points,
        uint128 wallet,
        bytes32 root
    ) external {
        (uint64 task1, uint64 task2) = (aTask(1, escrow1), aTask(1, escrow2));
        anchorFunded(0, "first", 5);
        Batch memory batch = aBatch(1, root, points, wallet);
        batch.debits = new TaskDebit[](2);
        batch.debits[0] = TaskDebit({taskId: task1, amount: debit1});
        batch.debits[1] = TaskDebit({taskId: task2, amount: debit2});
        uint256 balance = token.balanceOf(address(log));
        log.anchor(batch, "");

        assert(uint256(debit1) + debit2 == uint256(points) + wallet);
        assert(log.taskOf(task1).escrow == escrow1 - debit1);
        assert(log.taskOf(task2).escrow == escrow2 - debit2);
        assert(log.providerOf(PROVIDER).pointsAccrued == points);
        assert(log.unclaimedOf(PROVIDER, 1) == wallet);
        assert(token.balanceOf(address(log)) == balance);
        assert(log.providerOf(PROVIDER).nextBatch == 2);
        assert(log.rootOf(PROVIDER, 1) == root && log.rootOf(PROVIDER, 0) == "first");
        assert(log.unclaimedOf(PROVIDER, 0) == 5);
    }

    /// @dev P4: only the next number is anchored.
    function check_BatchNumbersHaveNoGap(uint64 number, bytes32 root) external {
        anchorFunded(0, "first", 0);
        bool ok = tried(SPONSOR, address(log), abi.encodeCall(log.anchor, (aBatch(number, root, 0, 0), "")));
        assert(!ok || number == 1);
        assert(log.rootOf(PROVIDER, 0) == "first");
    }

    /// @dev P2, P3: a claim of any event takes its reward out of its own batch's total, pays its payee exactly that, and
    /// works once. A later state of a batch differs from this one by a smaller total, which is any number here.
    function check_ClaimPaysOnceAndFromItsBatch(ProvenanceEvent memory e, uint128 total, uint128 others) external {
        vm.assume(e.payee != address(log));
        anchorFunded(0, log.leafOf(e), total);
        anchorFunded(1, "other", others);
        vm.warp(NOW + WINDOW);
        uint256 before = token.balanceOf(e.payee);
        log.claim(PROVIDER, 0, e, noProof());

        assert(token.balanceOf(e.payee) - before == e.reward);
        assert(e.reward <= total && log.unclaimedOf(PROVIDER, 0) == total - e.reward);
        assert(token.balanceOf(address(log)) == uint256(total) - e.reward + others);
        assert(log.unclaimedOf(PROVIDER, 1) == others);
        assert(log.isClaimed(PROVIDER, 0, e.index));
        assert(!tried(SPONSOR, address(log), claimOf(0, e)));
    }

    /// @dev P9: a payee is never refused what it was accepted for and its batch still has, from the end of the challenge window on.
    function check_ClaimIsNeverRefused(ProvenanceEvent memory e, uint128 total, uint64 later) external {
        vm.assume(e.payee != address(0) && e.payee != address(log) && e.reward > 0 && e.reward <= total && e.kind == 1);
        vm.assume(later >= WINDOW && later < 1 << 60);
        anchorFunded(0, log.leafOf(e), total);
        vm.warp(NOW + later);
        assert(tried(SPONSOR, address(log), claimOf(0, e)));
    }

    /// @dev P2, P3: a challenged reward leaves its batch once, and cannot be claimed as well; what the batch cannot pay stays out
    /// of it.
    function check_HeldIsNotClaimed(ProvenanceEvent memory e, uint128 total, uint128 others) external {
        uint64 taskId = aTask(3, 0);
        vm.assume(e.taskId == taskId && e.payee != address(0) && e.reward > 0);
        anchorFunded(0, log.leafOf(e), total);
        anchorFunded(1, "other", others);
        uint256 purse = 1 << 128;
        give(CHALLENGER, address(disputes), purse);
        vm.prank(CHALLENGER);
        disputes.challenge(PROVIDER, 0, e, noProof(), Ground.Duplicate, 0, "");

        uint256 held = e.reward <= total ? e.reward : 0;
        assert(log.unclaimedOf(PROVIDER, 0) == total - held);
        assert(token.balanceOf(address(log)) == uint256(total) - held + others);
        uint256 bond = purse - token.balanceOf(CHALLENGER);
        assert(token.balanceOf(address(disputes)) == held + bond && bond == (held > 0 || e.reward < 3 ? e.reward : 3));
        vm.warp(NOW + WINDOW);
        assert(!tried(SPONSOR, address(log), claimOf(0, e)));
    }

    /// @dev P1: sweeping sends the treasury what accrued, once.
    function check_SweepSendsWhatAccrued(uint128 points, uint128 escrow) external {
        Batch memory batch = aBatch(0, "root", points, 0);
        batch.debits = new TaskDebit[](1);
        batch.debits[0] = TaskDebit({taskId: aTask(1, escrow), amount: points});
        log.anchor(batch, "");
        assert(treasury.backing() == points);
        uint96 swept = log.sweepPoints(PROVIDER);

        assert(swept == points && token.balanceOf(address(treasury)) == points);
        assert(token.balanceOf(address(log)) == uint256(escrow) - points);
        assert(treasury.backing() == points && log.providerOf(PROVIDER).pointsAccrued == 0);
        assert(log.sweepPoints(PROVIDER) == 0);
    }

    /// @dev P1, P9: a sponsor gets back all that was paid in and not debited, nobody else gets it, and only once.
    function check_RefundReturnsTheEscrow(uint128 first, uint128 second, address caller, uint64 later) external {
        uint64 taskId = aTask(7, first);
        give(SPONSOR, address(log), second);
        vm.prank(SPONSOR);
        log.fundTask(taskId, second);
        assert(log.taskOf(taskId).escrow == uint256(first) + second);
        vm.assume(later < 1 << 60);
        vm.warp(NOW + later);
        bool ok = tried(caller, address(log), abi.encodeCall(log.refundTask, (taskId)));

        assert(ok == (caller == SPONSOR && later > 30 days + log.SETTLEMENT_GRACE()));
        if (ok) {
            assert(token.balanceOf(SPONSOR) == uint256(first) + second);
            assert(token.balanceOf(address(log)) == 0 && log.taskOf(taskId).escrow == 0);
        }
    }
}
