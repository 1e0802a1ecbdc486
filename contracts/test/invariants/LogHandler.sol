// SPDX-License-Identifier: MIT OR Apache-2.0
// Random sponsors, batches, claims and redemptions, and attempts that the log has to refuse.
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IPointsTreasury, PointsDebit} from "../../interfaces/IPointsTreasury.sol";
import {Batch, IProvenanceLog, ProvenanceEvent, TaskDebit} from "../../interfaces/IProvenanceLog.sol";
import {Authorization, Claim, IRewardPool, Permit} from "../../interfaces/IRewardPool.sol";
import {Random, World} from "./World.sol";

/// @dev An action that is not possible now is discarded with `assume`: forge's table shows how many really did something.
abstract contract LogHandler is World {
    uint256 private constant TASKS_MAX = 12;
    uint32 private constant EVENTS_MAX = 4;
    uint256 private constant PROBES = 20;
    uint256 private constant NONE = type(uint256).max;

    /* TASKS */

    function createTask(uint256 seed) external {
        vm.assume(tasks.length <= TASKS_MAX);
        addTask(Random(seed));
    }

    function addTask(Random memory r) internal {
        uint256 p = r.below(PROVIDERS);
        address sponsor_ = people[4 + r.below(2)];
        uint128 price = uint128(1 + r.below(r.below(2) == 0 ? 1e3 : 1e24));
        uint128 amount = uint128(r.below(8) == 0 ? 0 : price * (1 + r.below(20)) + r.below(2));
        uint64 closesAt = uint64(block.timestamp + 1 + (r.below(4) == 0 ? r.below(3 days) : r.below(150 days)));
        tasks.push(TaskModel(p, sponsor_, price, amount, closesAt));
        give(sponsor_, providers[p].token, amount);
        holds[address(log)][providers[p].token] += amount;
        vm.prank(sponsor_);
        assertEq(log.createTask(providers[p].self, price, closesAt, 0, "ipfs://t", amount), tasks.length - 1);
    }

    /// @dev By allowance, permit or EIP-3009.
    function fundTask(uint256 seed) external {
        Random memory r = Random(seed);
        uint64 id = aTaskOf(r, r.below(PROVIDERS));
        vm.assume(id != 0);
        uint128 amount = uint128(1 + r.below(uint256(tasks[id].price) * 10));
        token = providers[tasks[id].provider].token;
        tasks[id].escrow += amount;
        holds[address(log)][token] += amount;
        address from = vm.addr(cardKey);
        uint256 how = r.below(3);
        if (how == 0) {
            from = people[4 + r.below(2)];
            give(from, token, amount);
            vm.prank(from);
            log.fundTask(id, amount);
        } else if (how == 1) {
            give(from, token, amount);
            Permit memory permit = permitOf(cardKey, address(log), amount);
            vm.prank(from);
            log.fundTaskWithPermit(id, amount, permit);
        } else {
            give(from, token, amount);
            bytes32 salt = bytes32(newId(r));
            bytes32 purpose = keccak256(abi.encode(keccak256("fundTask"), id, salt));
            Authorization memory authorization = authorizationOf(cardKey, address(log), amount, purpose, salt);
            log.fundTaskWithAuthorization(id, amount, from, authorization);
            // P3, P16: not a second time
            give(from, token, amount);
            (bool again,) =
                address(log).call(abi.encodeCall(log.fundTaskWithAuthorization, (id, amount, from, authorization)));
            assertFalse(again);
            takeBack(from, token, amount);
        }
    }

    function refundTask(uint256 seed) external {
        Random memory r = Random(seed);
        uint64 id = uint64(1 + r.below(tasks.length));
        for (uint256 i = 0; i < tasks.length; ++i) {
            id = uint64(1 + id % tasks.length);
            if (id < tasks.length && isPastGrace(id) && tasks[id].escrow > 0) break;
        }
        vm.assume(id < tasks.length && isPastGrace(id) && tasks[id].escrow > 0);
        TaskModel storage task = tasks[id];
        bytes memory call = abi.encodeCall(log.refundTask, (id));
        refused(stranger, address(log), call, IRewardPool.OnlySponsor.selector);
        uint128 amount = task.escrow;
        task.escrow = 0;
        holds[address(log)][providers[task.provider].token] -= amount;
        vm.prank(task.sponsor);
        log.refundTask(id);
        book(task.sponsor, providers[task.provider].token, amount);
        refused(task.sponsor, address(log), call, IRewardPool.AmountZero.selector);
    }

    function refundTooEarly(uint256 seed) external {
        Random memory r = Random(seed);
        uint64 id = aTaskOf(r, r.below(PROVIDERS));
        vm.assume(id != 0 && !isPastGrace(id));
        bytes memory call = abi.encodeCall(log.refundTask, (id));
        refused(tasks[id].sponsor, address(log), call, IRewardPool.TaskOpenUntil.selector);
    }

    /// @dev Some time, or until the very second in which something ends.
    function wait(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 edge = r.below(2) == 0 ? anEdge(r) : 0;
        if (edge > block.timestamp && edge < block.timestamp + 100 days) return vm.warp(edge);
        uint256 longest = r.below(8) == 0 ? 70 days : r.below(2) == 0 ? 5 days : 6 hours;
        vm.warp(block.timestamp + 1 + r.below(longest));
    }

    /* BATCHES */

    function anchor(uint256 seed) external {
        vm.assume(!logPaused);
        Random memory r = Random(seed);
        uint256 p = r.below(PROVIDERS);
        anchorFor(r, p);
        anchorFor(r, p);
    }

    function anchorFor(Random memory r, uint256 p) internal {
        ProviderModel storage m = providers[p];
        (Batch memory batch, BatchModel memory b) = newBatch(r, p);
        bytes memory signature = sign(m.attestorKey, log.digestOf(batch));
        log.anchor(batch, signature);

        for (uint256 i = 0; i < batch.debits.length; ++i) {
            tasks[batch.debits[i].taskId].escrow -= batch.debits[i].amount;
        }
        m.accrued += batch.pointsTotal;
        m.backing += batch.pointsTotal;
        ++m.nextBatch;
        batches.push(b);
        // P16: the same signature does not count again
        bytes memory call = abi.encodeCall(log.anchor, (batch, signature));
        refused(stranger, address(log), call, IProvenanceLog.BatchNumberUnexpected.selector);
    }

    /// @dev A right batch, and one thing wrong about it.
    function anchorWrongly(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 p = r.below(PROVIDERS);
        ProviderModel storage m = providers[p];
        (Batch memory batch,) = newBatch(r, p);
        uint256 key = m.attestorKey;
        bytes4 reason;
        uint256 how = r.below(7);
        if (logPaused) {
            reason = Pausable.EnforcedPause.selector; // P10
        } else if (how == 0) {
            ++batch.number;
            reason = IProvenanceLog.BatchNumberUnexpected.selector;
        } else if (how == 1) {
            // P11
            key = m.formerKey == 0 ? providers[(p + 1) % PROVIDERS].attestorKey : m.formerKey;
            reason = IProvenanceLog.AttestationInvalid.selector;
        } else if (how == 2) {
            ++batch.walletTotal;
            reason = IRewardPool.DebitsDiffer.selector;
        } else if (how == 3) {
            ++batch.pointsTotal;
            reason = IRewardPool.DebitsDiffer.selector;
        } else {
            uint64 id = aTaskOf(r, how == 4 ? (p + 1) % PROVIDERS : p);
            vm.assume(id != 0);
            uint128 amount = tasks[id].price;
            if (how == 4) {
                reason = IRewardPool.TaskOfOtherProvider.selector;
            } else if (how == 5) {
                amount *= tasks[id].escrow / tasks[id].price + 1;
                reason = IRewardPool.BudgetExceeded.selector;
            } else {
                amount = amount * 2 + 1;
                vm.assume(tasks[id].price > 1);
                reason = IRewardPool.DebitNotMultipleOfPrice.selector;
            }
            (batch.pointsTotal, batch.walletTotal, batch.debits) = (amount, 0, debitOf(id, amount));
        }
        bytes memory signature = sign(key, log.digestOf(batch));
        refused(stranger, address(log), abi.encodeCall(log.anchor, (batch, signature)), reason);
    }

    function rotateAttestor(uint256 seed) external {
        ProviderModel storage m = providers[seed % PROVIDERS];
        (m.formerKey, m.attestorKey) = (m.attestorKey, uint256(keccak256(abi.encode(m.attestorKey))) >> 8);
        vm.prank(m.self);
        log.setAttestor(vm.addr(m.attestorKey));
    }

    function setChallengeWindow(uint256 seed) external {
        Random memory r = Random(seed);
        ProviderModel storage m = providers[r.below(PROVIDERS)];
        m.challengeWindow = uint32(r.below(2) == 0 ? r.below(3 days) : r.below(4) == 0 ? r.below(30 days + 1) : 0);
        vm.prank(m.self);
        log.setChallengeWindow(m.challengeWindow);
    }

    /// @dev Rarely, as most of what there is to try needs a log that runs.
    function pause(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(!(logPaused && salesPaused) && r.below(4) == 0);
        if (!logPaused) {
            vm.prank(pauser);
            log.pause();
            logPaused = true;
        } else {
            vm.prank(pauser);
            licenses.pause();
            salesPaused = true;
        }
    }

    function unpause() external {
        vm.assume(logPaused || salesPaused);
        vm.prank(pauser);
        if (salesPaused) {
            licenses.unpause();
            salesPaused = false;
        } else {
            log.unpause();
            logPaused = false;
        }
    }

    /* CLAIMS */

    function claim(uint256 seed) external {
        Random memory r = Random(seed);
        (uint256 k, uint32 i) = aReward(r, false);
        vm.assume(k != NONE);
        BatchModel memory b = batches[k];
        ProvenanceEvent memory e = eventOf(b, i);
        address self = providers[b.provider].self;
        bytes32[] memory proof = proofOf(b, i);
        log.claim(self, b.number, e, proof);
        bookClaim(k, e);
        // P3
        bytes memory call = abi.encodeCall(log.claim, (self, b.number, e, proof));
        refused(stranger, address(log), call, IRewardPool.AlreadyClaimed.selector);
    }

    /// @dev Up to five, of any batches and payees; what was claimed before or stands there twice is skipped.
    function claimMany(uint256 seed) external {
        Random memory r = Random(seed);
        Claim[] memory claims = someClaims(r, 1 + r.below(5));
        log.claimMany(claims);
        assertBooked(claims);
    }

    /// @dev Two claims, one of them perhaps for the second time, and what else goes together.
    function logMulticall(uint256 seed) external {
        Random memory r = Random(seed);
        Claim[] memory claims = someClaims(r, 2);
        uint256 p = r.below(PROVIDERS);
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(log.claim, (claims[0].provider, claims[0].number, claims[0].e, claims[0].proof));
        calls[1] = abi.encodeCall(log.claimMany, (claims));
        calls[2] = abi.encodeCall(log.sweepPoints, (providers[p].self));
        vm.prank(stranger);
        log.multicall(calls);
        bookSweep(p);
        assertBooked(claims);
        refused(stranger, address(log), abi.encodeCall(log.multicall, (calls)), IRewardPool.AlreadyClaimed.selector);
    }

    /// @dev Whatever a reward is not there for.
    function claimWrongly(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(batches.length > 0);
        uint256 k = r.below(batches.length);
        BatchModel memory b = batches[k];
        uint32 i = uint32(r.below(b.count));
        ProvenanceEvent memory e = eventOf(b, i);
        bytes4 reason;
        if (e.reward == 0) {
            reason = IRewardPool.RewardZero.selector;
        } else if (e.payee == address(0)) {
            reason = IRewardPool.PaidInPoints.selector;
        } else if (taken[k][e.index]) {
            reason = IRewardPool.AlreadyClaimed.selector; // P3
        } else if (block.timestamp < b.challengeUntil) {
            reason = IRewardPool.ClaimTooEarly.selector;
        } else if (e.reward > b.walletTotal - b.paid) {
            assertTrue(b.lie != 0);
            reason = IRewardPool.BatchRewardsExceeded.selector; // P2
        } else {
            reason = IRewardPool.ProofInvalid.selector;
        }
        bytes32[] memory proof = proofOf(b, i);
        if (reason == IRewardPool.ProofInvalid.selector) {
            uint256 how = r.below(3);
            if (how == 0) ++e.reward;
            else if (how == 1) e.payee = stranger;
            else e.index += 256;
        }
        address self = providers[b.provider].self;
        refused(stranger, address(log), abi.encodeCall(log.claim, (self, b.number, e, proof)), reason);
        // Only Disputes may hold.
        bytes memory call = abi.encodeCall(log.hold, (self, b.number, e.index, e.reward));
        refused(stranger, address(log), call, IRewardPool.OnlyDisputes.selector);
    }

    /* POINTS */

    function sweep(uint256 seed) external {
        uint256 p = seed % PROVIDERS;
        vm.assume(providers[p].accrued > 0);
        assertEq(log.sweepPoints(providers[p].self), providers[p].accrued);
        bookSweep(p);
    }

    function redeem(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 p = r.below(PROVIDERS);
        ProviderModel storage m = providers[p];
        vm.assume(m.backing > 1);
        PointsDebit[] memory debits = new PointsDebit[](1 + r.below(2));
        uint256 total = 0;
        for (uint256 i = 0; i < debits.length; ++i) {
            debits[i] = PointsDebit(bytes32(newId(r)), bytes32(r.below(9)), uint128(1 + r.below(m.backing / 2)));
            payouts.push(debits[i].payoutId);
            payoutProvider[debits[i].payoutId] = p;
            total += debits[i].amount;
        }
        if (m.token.balanceOf(address(m.treasury)) < total) bookSweep(p);
        m.backing -= total;
        vm.prank(operator);
        m.treasury.redeem(debits, people[10]);
        book(people[10], m.token, total);
    }

    function redeemWrongly(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(payouts.length > 0);
        bytes32 id = payouts[r.below(payouts.length)];
        ProviderModel storage m = providers[payoutProvider[id]];
        PointsDebit[] memory debits = new PointsDebit[](1);
        debits[0] = PointsDebit(id, 0, 1);
        bytes memory call = abi.encodeCall(m.treasury.redeem, (debits, stranger));
        refused(stranger, address(m.treasury), call, IPointsTreasury.OnlyOperator.selector);
        refused(operator, address(m.treasury), call, IPointsTreasury.AlreadyRedeemed.selector); // P3
        debits[0] = PointsDebit(bytes32(newId(r)), 0, uint128(m.backing + 1));
        call = abi.encodeCall(m.treasury.redeem, (debits, stranger));
        refused(operator, address(m.treasury), call, IERC20Errors.ERC20InsufficientBalance.selector);
    }

    /// @dev Tokens that nobody asked for change nothing.
    function donate(uint256 seed) external {
        Random memory r = Random(seed);
        ProviderModel storage m = providers[r.below(PROVIDERS)];
        uint256 amount = 1 + r.below(1e6);
        address[4] memory holders = [address(log), address(licenses), address(disputes), address(m.treasury)];
        uint256 i = r.below(4);
        m.token.mint(holders[i], amount);
        if (i == 3) {
            m.backing += amount;
        } else {
            gifts[holders[i]][m.token] += amount;
            holds[holders[i]][m.token] += amount;
        }
    }

    /* INTERNAL */

    /// @dev A batch of up to four events that the tasks can pay: in points, to wallets, both or neither.
    function newBatch(Random memory r, uint256 p) private returns (Batch memory batch, BatchModel memory b) {
        ProviderModel storage m = providers[p];
        (b.provider, b.number, b.seed) = (p, m.nextBatch, newId(r));
        b.challengeUntil = uint64(block.timestamp) + m.challengeWindow;
        (uint64 first, uint64 second) = (aTaskOf(r, p), aTaskOf(r, p));
        b.tasks = first < second ? [first, second] : [second, first];
        b.count = uint32(1 + r.below(EVENTS_MAX));
        b.lie = r.below(3) == 0 ? uint8(1 + r.below(4)) : 0;
        uint128[2] memory debits;
        uint256 style = r.below(5);
        for (uint32 i = 0; i < b.count; ++i) {
            uint256 kind = style == 0 ? r.below(2) : style < 3 ? style + 1 : r.below(6);
            if (kind > WALLET) kind = kind == 4 ? WALLET : POINTS;
            uint256 side = b.tasks[0] == b.tasks[1] ? 0 : r.below(2);
            uint64 id = b.tasks[side];
            if (id == 0) kind = REGISTERED;
            uint128 price = tasks[id].price;
            if (kind >= POINTS && debits[side] + price > tasks[id].escrow) kind = REJECTED;
            if (kind >= POINTS) debits[side] += price;
            if (kind == POINTS) batch.pointsTotal += price;
            if (kind == WALLET) batch.walletTotal += price;
            b.kinds |= (kind | side << 2) << (4 * i);
        }
        if (b.lie == LIE_WALLET_TOTAL) {
            uint128 moved = uint128(r.below(uint256(batch.walletTotal) + 1));
            batch.walletTotal -= moved;
            batch.pointsTotal += moved;
        }
        batch.debits = new TaskDebit[]((debits[0] > 0 ? 1 : 0) + (debits[1] > 0 ? 1 : 0));
        uint256 used = 0;
        for (uint256 side = 0; side < 2; ++side) {
            if (debits[side] > 0) batch.debits[used++] = TaskDebit(b.tasks[side], debits[side]);
        }
        b.walletTotal = batch.walletTotal;
        b.root = treeOf(b)[0];
        (batch.provider, batch.number, batch.root) = (m.self, b.number, b.root);
        (batch.eventCount, batch.manifestCid) = (b.count, CID);
    }

    /// @dev A task of the provider, however long it is closed; 0 where there is none.
    function aTaskOf(Random memory r, uint256 p) internal view returns (uint64) {
        uint256 start = r.below(tasks.length);
        for (uint256 i = 0; i < tasks.length; ++i) {
            uint64 id = uint64((start + i) % tasks.length);
            if (id != 0 && tasks[id].provider == p) return id;
        }
        return 0;
    }

    function isPastGrace(uint64 id) private view returns (bool) {
        return block.timestamp > tasks[id].closesAt + 7 days;
    }

    /// @dev A wallet reward that can be claimed now, or was taken already where `orTaken`.
    function aReward(Random memory r, bool orTaken) private view returns (uint256, uint32) {
        for (uint256 probe = 0; probe < PROBES && batches.length > 0; ++probe) {
            uint256 k = r.below(batches.length);
            BatchModel memory b = batches[k];
            uint32 i = uint32(r.below(b.count));
            if ((b.kinds >> (4 * i)) & 3 != WALLET) continue;
            ProvenanceEvent memory e = eventOf(b, i);
            if (taken[k][e.index] ? orTaken : isPayable(b, e)) return (k, i);
        }
        return (NONE, 0);
    }

    /// @dev An honest batch pays whatever it promises.
    function isPayable(BatchModel memory b, ProvenanceEvent memory e) private view returns (bool) {
        if (block.timestamp < b.challengeUntil) return false;
        bool pays = e.reward <= b.walletTotal - b.paid;
        assertTrue(pays || b.lie != 0);
        return pays;
    }

    /// @dev At least one that is payable first, then others of which some were taken before. Books as it collects, so that
    /// no batch is asked for more than it has.
    function someClaims(Random memory r, uint256 most) private returns (Claim[] memory claims) {
        Claim[] memory found = new Claim[](most);
        uint256 count = 0;
        for (; count < most; ++count) {
            (uint256 k, uint32 i) = aReward(r, count > 0);
            if (k == NONE) break;
            BatchModel memory b = batches[k];
            ProvenanceEvent memory e = eventOf(b, i);
            found[count] = Claim(providers[b.provider].self, b.number, e, proofOf(b, i));
            if (taken[k][e.index]) continue;
            takeReward(k, e);
            earned[e.payee][providers[b.provider].token] += e.reward;
        }
        vm.assume(count > 0);
        claims = new Claim[](count);
        for (uint256 i = 0; i < count; ++i) {
            claims[i] = found[i];
        }
    }

    function assertBooked(Claim[] memory claims) private view {
        for (uint256 i = 0; i < claims.length; ++i) {
            address who = claims[i].e.payee;
            for (uint256 t = 0; t < 2; ++t) {
                assertEq(tokens[t].balanceOf(who), earned[who][tokens[t]]);
            }
        }
    }

    function bookClaim(uint256 k, ProvenanceEvent memory e) private {
        takeReward(k, e);
        book(e.payee, providers[batches[k].provider].token, e.reward);
    }

    /// @dev P2, P3: underflows where a batch pays more than it has.
    function takeReward(uint256 k, ProvenanceEvent memory e) internal {
        assertFalse(taken[k][e.index]);
        taken[k][e.index] = true;
        batches[k].paid += e.reward;
        assertLe(batches[k].paid, batches[k].walletTotal);
        holds[address(log)][providers[batches[k].provider].token] -= e.reward;
    }

    function bookSweep(uint256 p) private {
        holds[address(log)][providers[p].token] -= providers[p].accrued;
        providers[p].accrued = 0;
    }
}
