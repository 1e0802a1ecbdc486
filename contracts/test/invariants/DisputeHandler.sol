// SPDX-License-Identifier: MIT OR Apache-2.0
// Random bonds, challenges and rulings, and attempts that Disputes has to refuse.
pragma solidity ^0.8.28;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {DevToken} from "../../src/dev/DevToken.sol";
import {DisputeState, Ground, IDisputes} from "../../interfaces/IDisputes.sol";
import {ProvenanceEvent} from "../../interfaces/IProvenanceLog.sol";
import {LogHandler} from "./LogHandler.sol";
import {Random} from "./World.sol";

abstract contract DisputeHandler is LogHandler {
    uint256 private constant PROBES = 12;

    /* BONDS */

    function depositBond(uint256 seed) external {
        Random memory r = Random(seed);
        ProviderModel storage m = providers[r.below(PROVIDERS)];
        uint128 amount = uint128(1 + r.below(r.below(2) == 0 ? 1e3 : 1e25));
        address from = people[r.below(10)];
        give(from, m.token, amount);
        m.bond += amount;
        holds[address(disputes)][m.token] += amount;
        vm.prank(from);
        disputes.depositBond(m.self, amount);
    }

    function requestBondWithdrawal(uint256 seed) external {
        Random memory r = Random(seed);
        ProviderModel storage m = providers[r.below(PROVIDERS)];
        vm.assume(m.bond > 0);
        m.requested = r.below(2) == 0 ? m.bond : uint128(1 + r.below(m.bond));
        m.withdrawableAt = uint64(block.timestamp + 60 days);
        vm.prank(m.self);
        disputes.requestBondWithdrawal(m.requested);
    }

    /// @dev Where it must not leave yet, it is refused: P15.
    function withdrawBond(uint256 seed) external {
        ProviderModel storage m = providers[seed % PROVIDERS];
        uint128 amount = m.requested < m.bond ? m.requested : m.bond;
        vm.assume(amount > 0);
        bytes memory call = abi.encodeCall(disputes.withdrawBond, ());
        if (block.timestamp < m.withdrawableAt) {
            return refused(m.self, address(disputes), call, IDisputes.WithdrawalTooEarly.selector);
        }
        if (m.disputesOpen > 0) return refused(m.self, address(disputes), call, IDisputes.DisputesOpen.selector);
        m.bond -= amount;
        m.requested = 0;
        holds[address(disputes)][m.token] -= amount;
        vm.prank(m.self);
        disputes.withdrawBond();
        book(m.self, m.token, amount);
        refused(m.self, address(disputes), call, IDisputes.AmountZero.selector);
    }

    /* DISPUTES */

    function challenge(uint256 seed) external {
        Random memory r = Random(seed);
        for (uint256 probe = 0; probe < PROBES && batches.length > 0; ++probe) {
            uint256 k = r.below(batches.length);
            BatchModel memory b = batches[k];
            uint32 i = uint32(r.below(b.count));
            if (block.timestamp >= b.challengeUntil || (b.kinds >> (4 * i)) & 3 == REGISTERED) continue;
            if (disputed[k][leafAt(b, i)]) continue;
            return challengeEvent(k, i, people[6 + r.below(2)]);
        }
        vm.assume(false);
    }

    function challengeEvent(uint256 k, uint32 i, address challenger) private {
        BatchModel memory b = batches[k];
        ProvenanceEvent memory e = eventOf(b, i);
        ProviderModel storage m = providers[b.provider];
        DisputeModel memory c;
        (c.provider, c.state, c.challenger) = (b.provider, DisputeState.Open, challenger);
        uint128 price = tasks[e.taskId].price;
        c.bond = e.reward > 0 && e.reward < price ? e.reward : price;
        // P2, P3: what the batch cannot pay, or paid already, is not held
        if (e.payee != address(0) && !taken[k][e.index] && e.reward <= b.walletTotal - b.paid) {
            (c.held, c.bond, c.payee) = (e.reward, e.reward, e.payee);
        } else {
            assertTrue(e.payee == address(0) || b.lie != 0);
            c.refund = e.reward < price ? e.reward : price;
        }
        c.ruleBefore = uint64(block.timestamp + 14 days);

        give(challenger, m.token, c.bond);
        bytes memory call =
            abi.encodeCall(disputes.challenge, (m.self, b.number, e, proofOf(b, i), Ground.Duplicate, 0, "ipfs://e"));
        if (e.taskId == 0 && c.held == 0) {
            assertTrue(b.lie != 0);
            refused(challenger, address(disputes), call, IDisputes.TaskUnknown.selector);
            return takeBack(challenger, m.token, c.bond);
        }
        vm.prank(challenger);
        (bool opened,) = address(disputes).call(call);
        assertTrue(opened);
        cases.push(c);
        disputed[k][leafAt(b, i)] = true;
        ++m.disputesOpen;
        if (c.held > 0) takeReward(k, e);
        holds[address(disputes)][m.token] += uint256(c.bond) + c.held;
        assertEq(disputes.disputeAbout(m.self, b.number, log.leafOf(e)), cases.length - 1);
        refused(challenger, address(disputes), call, IDisputes.AlreadyDisputed.selector);
    }

    function challengeTooLate(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(batches.length > 0);
        BatchModel memory b = batches[r.below(batches.length)];
        uint32 i = uint32(r.below(b.count));
        vm.assume((b.kinds >> (4 * i)) & 3 != REGISTERED);
        if (block.timestamp < b.challengeUntil) {
            // the first second that is too late
            vm.assume(r.below(4) == 0);
            vm.warp(b.challengeUntil);
        }
        bytes memory call = abi.encodeCall(
            disputes.challenge,
            (providers[b.provider].self, b.number, eventOf(b, i), proofOf(b, i), Ground.WrongVerdict, 0, "")
        );
        refused(people[6], address(disputes), call, IDisputes.ChallengeTooLate.selector);
    }

    function rule(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 id = anOpenCase(r, false);
        vm.assume(id != 0);
        DisputeModel storage c = cases[id];
        ProviderModel storage m = providers[c.provider];
        uint64 taskId = aTaskOf(c.provider, r);
        bool upheld = r.below(2) == 0;
        bytes memory call = abi.encodeCall(disputes.rule, (id, upheld, taskId, "reason"));
        refused(stranger, address(disputes), call, IAccessManaged.AccessManagedUnauthorized.selector);
        if (upheld && providers[tasks[taskId].provider].self != m.self || taskId == 0) {
            // P15: only a sponsor of the provider is paid back
            call = abi.encodeCall(disputes.rule, (id, true, taskId, "reason"));
            return refused(arbiter, address(disputes), call, IDisputes.TaskUnknown.selector);
        }
        vm.prank(arbiter);
        disputes.rule(id, upheld, taskId, "reason");
        if (upheld) {
            // the sponsor first
            uint128 refund = c.refund < tasks[taskId].price ? c.refund : tasks[taskId].price;
            if (refund > m.bond) refund = m.bond;
            uint128 bounty = c.bond < m.bond - refund ? c.bond : m.bond - refund;
            m.bond -= refund + bounty;
            // what was announced goes first
            m.requested = m.requested > refund + bounty ? m.requested - refund - bounty : 0;
            credits[m.token][tasks[taskId].sponsor] += refund + c.held;
            credits[m.token][c.challenger] += bounty + c.bond;
        } else if (c.payee != address(0)) {
            credits[m.token][c.payee] += c.held + c.bond;
        } else {
            m.bond += c.bond;
        }
        end(id, upheld ? DisputeState.Upheld : DisputeState.Rejected);
    }

    function lapse(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 id = anOpenCase(r, true);
        if (id == 0 && r.below(4) == 0) {
            // the first second without an arbiter
            id = anOpenCase(r, false);
            if (id != 0) vm.warp(cases[id].ruleBefore);
        }
        vm.assume(id != 0);
        DisputeModel storage c = cases[id];
        bytes memory call = abi.encodeCall(disputes.rule, (id, true, 1, "too late"));
        refused(arbiter, address(disputes), call, IDisputes.RulingTooLate.selector);
        disputes.lapse(id);
        credits[providers[c.provider].token][c.challenger] += c.bond;
        credits[providers[c.provider].token][c.payee] += c.held;
        end(id, DisputeState.Lapsed);
    }

    function lapseTooEarly(uint256 seed) external {
        uint256 id = anOpenCase(Random(seed), false);
        vm.assume(id != 0);
        refused(stranger, address(disputes), abi.encodeCall(disputes.lapse, (id)), IDisputes.RulingPending.selector);
    }

    function payCredit(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 start = r.below(2 * people.length);
        for (uint256 i = 0; i < 2 * people.length; ++i) {
            uint256 entry = (start + i) % (2 * people.length);
            (DevToken its, address who) = (tokens[entry % 2], people[entry / 2]);
            uint256 amount = credits[its][who];
            if (amount == 0) continue;
            credits[its][who] = 0;
            holds[address(disputes)][its] -= amount;
            assertEq(disputes.payCredit(address(its), who), amount);
            book(who, its, amount);
            // P3
            bytes memory call = abi.encodeCall(disputes.payCredit, (address(its), who));
            return refused(who, address(disputes), call, IDisputes.AmountZero.selector);
        }
        vm.assume(false);
    }

    /* INTERNAL */

    /// @dev Mostly a task of the provider, whichever it is; 0 where none is found.
    function aTaskOf(uint256 provider, Random memory r) private view returns (uint64) {
        uint256 start = r.below(tasks.length);
        for (uint256 i = 0; i < tasks.length; ++i) {
            uint256 id = (start + i) % tasks.length;
            if (id != 0 && (tasks[id].provider == provider || r.below(16) == 0)) return uint64(id);
        }
        return 0;
    }

    /// @dev P15: an end is an end.
    function end(uint256 id, DisputeState state) private {
        cases[id].state = state;
        --providers[cases[id].provider].disputesOpen;
        bytes memory call = abi.encodeCall(disputes.rule, (id, true, 1, "again"));
        refused(arbiter, address(disputes), call, IDisputes.DisputeNotOpen.selector);
        refused(stranger, address(disputes), abi.encodeCall(disputes.lapse, (id)), IDisputes.DisputeNotOpen.selector);
    }

    function anOpenCase(Random memory r, bool late) private view returns (uint256) {
        uint256 start = r.below(cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            uint256 id = (start + i) % cases.length;
            if (cases[id].state == DisputeState.Open && (block.timestamp >= cases[id].ruleBefore) == late) return id;
        }
        return 0;
    }
}
