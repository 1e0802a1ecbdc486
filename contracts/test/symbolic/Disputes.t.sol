// SPDX-License-Identifier: MIT OR Apache-2.0
// Symbolic proofs about disputes: whatever comes in goes to exactly one owner, however a dispute ends.
pragma solidity ^0.8.28;

import {Dispute, DisputeState, Ground} from "../../interfaces/IDisputes.sol";
import {ProvenanceEvent} from "../../interfaces/IProvenanceLog.sol";
import {Proof} from "./Proof.sol";

contract DisputesProofs is Proof {
    uint256 private disputeId;
    /// What the challenge, its reward and the attestor's deposit brought in.
    uint256 private cameIn;

    /// @dev Challenges an acceptance after `attestorBond` was deposited. Its reward is the payee's, who may be the challenger
    /// or the sponsor as well, or the points' (no payee).
    function open(uint8 whose, uint128 reward, uint128 price, uint128 attestorBond) private {
        ProvenanceEvent memory e;
        e.payee = whose == 0 ? address(0) : whose == 1 ? PAYEE : whose == 2 ? CHALLENGER : SPONSOR;
        (e.kind, e.taskId, e.reward) = (1, aTask(price, 0), reward);
        anchorFunded(0, log.leafOf(e), whose == 0 ? 0 : reward);
        give(PROVIDER, address(disputes), attestorBond);
        vm.prank(PROVIDER);
        disputes.depositBond(PROVIDER, attestorBond);
        uint256 purse = uint256(price) + reward;
        give(CHALLENGER, address(disputes), purse);
        vm.prank(CHALLENGER);
        disputeId = disputes.challenge(PROVIDER, 0, e, noProof(), Ground.Duplicate, 0, "");
        cameIn = purse - token.balanceOf(CHALLENGER) + attestorBond + (whose == 0 ? 0 : reward);
    }

    function credits() private view returns (uint256) {
        return disputes.creditOf(address(token), SPONSOR) + disputes.creditOf(address(token), CHALLENGER)
            + disputes.creditOf(address(token), PAYEE);
    }

    function assertNothingIsLost() private view {
        assert(token.balanceOf(address(disputes)) == cameIn);
        assert(disputes.bondOf(PROVIDER) + credits() == cameIn);
        assert(disputes.openDisputesOf(PROVIDER) == 0);
    }

    /// @dev P15: with any ruling, bonds, held reward and slashed bond are credited in full, and a second ruling is refused.
    /// An authority's admin has the arbiter's role where nobody was given it.
    function check_RulingConservesEveryUnit(uint8 whose, uint96 reward, uint96 price, uint96 attestorBond, bool upheld)
        external
    {
        open(whose, reward, price, attestorBond);
        vm.prank(ADMIN);
        disputes.rule(disputeId, upheld, 1, "");

        assertNothingIsLost();
        if (!upheld) assert(disputes.bondOf(PROVIDER) >= attestorBond);
        assert(!tried(ADMIN, address(disputes), abi.encodeCall(disputes.rule, (disputeId, !upheld, 1, ""))));
    }

    /// @dev P15: without a ruling challenger and payee get back theirs, and the attestor's bond stays.
    function check_LapseReturnsEveryUnit(uint8 whose, uint96 reward, uint96 price, uint96 attestorBond, uint64 later)
        external
    {
        open(whose, reward, price, attestorBond);
        vm.assume(later < 1 << 60);
        vm.warp(NOW + later);
        bool ok = tried(SPONSOR, address(disputes), abi.encodeCall(disputes.lapse, (disputeId)));

        assert(ok == (later >= disputes.RULING_PERIOD()));
        if (ok) {
            assertNothingIsLost();
            assert(disputes.bondOf(PROVIDER) == attestorBond);
        }
    }

    /// @dev P15: a bond cannot leave while a dispute is open, nor before its time.
    function check_BondStaysUntilItsTime(uint128 bond, uint128 amount, uint64 later, bool disputed) external {
        if (disputed) {
            open(0, 5, 1, bond);
        } else {
            give(PROVIDER, address(disputes), bond);
            vm.prank(PROVIDER);
            disputes.depositBond(PROVIDER, bond);
        }
        vm.prank(PROVIDER);
        disputes.requestBondWithdrawal(amount);
        vm.assume(later < 1 << 60);
        vm.warp(NOW + later);
        bool ok = tried(PROVIDER, address(disputes), abi.encodeCall(disputes.withdrawBond, ()));

        assert(ok == (!disputed && later >= disputes.UNBONDING_PERIOD()));
        assert(disputes.bondOf(PROVIDER) == (ok ? bond - amount : bond));
        assert(token.balanceOf(PROVIDER) == (ok ? amount : 0));
    }

    /// @dev P3, P9: a credit is paid once and to its account, whoever asks.
    function check_CreditIsPaidOnce(uint8 whose, uint96 reward, uint96 price, address caller) external {
        open(whose, reward, price, 1);
        vm.warp(NOW + disputes.RULING_PERIOD());
        disputes.lapse(disputeId);
        uint256 credit = disputes.creditOf(address(token), PAYEE);
        bool ok = tried(caller, address(disputes), abi.encodeCall(disputes.payCredit, (address(token), PAYEE)));

        assert(ok == (credit > 0));
        assert(token.balanceOf(PAYEE) == credit && disputes.creditOf(address(token), PAYEE) == 0);
        assert(!tried(caller, address(disputes), abi.encodeCall(disputes.payCredit, (address(token), PAYEE))));
    }
}
