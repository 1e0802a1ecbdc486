// SPDX-License-Identifier: MIT OR Apache-2.0
// Whatever anyone does in whatever order, each contract holds at least what it owes.
pragma solidity ^0.8.28;

import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Member} from "../interfaces/IIPRegistry.sol";
import {Terms} from "../interfaces/ILicenseRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

/// @notice Does one random, allowed thing a call.
contract Handler is Fixture {
    using StandardMerkleTree for bytes32[];

    uint256 private constant TASKS_MAX = 5;
    uint256 private constant MEMBERS = 4;

    uint256 private _ipId;
    /// Events of batch i.
    mapping(uint64 number => ProvenanceEvent[]) private _events;
    /// Members of version i.
    mapping(uint32 version => Member[]) private _members;

    constructor() {
        setUp();
        createTask(1);
        newVersion(1);
    }

    /* ACTIONS */

    function createTask(uint256 seed) public {
        if (log.taskCount() == TASKS_MAX) return;
        aTask(uint128(bound(seed, 1, 1000 * PRICE)));
    }

    function fundTask(uint256 seed, uint128 amount) external {
        uint64 task = uint64(bound(seed, 1, log.taskCount()));
        if (isPastGrace(task)) return;
        amount = uint128(bound(amount, 1, 100 * PRICE));
        fund(stranger, address(log), amount);
        vm.prank(stranger);
        log.fundTask(task, amount);
    }

    function refundTask(uint256 seed) external {
        uint64 task = uint64(bound(seed, 1, log.taskCount()));
        if (!isPastGrace(task) || log.taskOf(task).escrow == 0) return;
        vm.prank(sponsor);
        log.refundTask(task);
    }

    function wait(uint256 time) external {
        vm.warp(block.timestamp + bound(time, 1, 5 days));
    }

    /// @dev Up to 6 events, each worth one price, paid in points or to a wallet.
    function anchorBatch(uint256 seed) external {
        uint64 task = uint64(bound(seed, 1, log.taskCount()));
        uint256 affordable = log.taskOf(task).escrow / PRICE;
        if (isPastGrace(task) || affordable == 0) return;
        uint64 number = log.providerOf(provider).nextBatch;
        ProvenanceEvent[] storage events = _events[number];
        uint128 points = 0;
        uint128 wallet = 0;
        uint32 count = uint32(bound(seed >> 8, 1, affordable < 6 ? affordable : 6));
        for (uint32 i = 0; i < count; ++i) {
            bool inPoints = (seed >> (16 + i)) & 1 == 0;
            events.push(anEvent(i, inPoints ? address(0) : payee, PRICE));
            if (inPoints) points += PRICE;
            else wallet += PRICE;
        }
        Batch memory batch = aPaidBatch(number, task, points, wallet);
        (batch.root, batch.eventCount) = (treeOf(events)[0], count);
        anchor(batch);
    }

    function claim(uint256 seed) external {
        uint64 next = log.providerOf(provider).nextBatch;
        if (next == 0) return;
        uint64 number = uint64(bound(seed, 0, next - 1));
        ProvenanceEvent[] storage events = _events[number];
        ProvenanceEvent memory e = events[bound(seed >> 64, 0, events.length - 1)];
        if (e.payee == address(0) || log.isClaimed(provider, number, e.index)) return;
        log.claim(provider, number, e, treeOf(events).proofOf(log.leafOf(e)));
    }

    function newVersion(uint256 seed) public {
        uint32 version = _ipId == 0 ? 1 : ips.latestVersionOf(_ipId) + 1;
        for (uint256 i = 0; i < MEMBERS; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            address to = seed % 4 == 0 ? address(0) : payee;
            _members[version].push(aMember(i, to, uint96(bound(seed >> 8, 1, type(uint96).max))));
        }
        if (version > 1) {
            addVersion(_ipId, contentOf(_members[version]));
        } else {
            _ipId = register(contentOf(_members[version]));
        }
    }

    function buy(uint128 price, uint16 contributorBps) external {
        Terms memory terms = someTerms();
        terms.price = uint128(bound(price, 1, 1e30));
        terms.contributorBps = uint16(bound(contributorBps, 0, 10_000));
        sell(_ipId, offer(_ipId, terms), terms.price);
    }

    function claimRoyalty(uint256 seed) external {
        uint32 version = uint32(bound(seed, 1, ips.latestVersionOf(_ipId)));
        uint256 i = bound(seed >> 32, 0, MEMBERS - 1);
        if (unclaimedRoyalty(version, i) == 0) return;
        licenses.claimRoyalty(_ipId, version, _members[version][i], proofOf(_members[version], i));
    }

    /* WHAT IS OWED */

    function poolOwes() external view returns (uint256 owed) {
        for (uint64 task = 1; task <= log.taskCount(); ++task) {
            owed += log.taskOf(task).escrow;
        }
        for (uint64 number = 0; number < log.providerOf(provider).nextBatch; ++number) {
            owed += log.unclaimedOf(provider, number);
        }
    }

    /// @dev Wallet rewards in events that nobody has claimed.
    function eventsPromise() external view returns (uint256 promised) {
        for (uint64 number = 0; number < log.providerOf(provider).nextBatch; ++number) {
            for (uint256 i = 0; i < _events[number].length; ++i) {
                ProvenanceEvent storage e = _events[number][i];
                if (e.payee != address(0) && !log.isClaimed(provider, number, e.index)) promised += e.reward;
            }
        }
    }

    function batchesHold() external view returns (uint256 held) {
        for (uint64 number = 0; number < log.providerOf(provider).nextBatch; ++number) {
            held += log.unclaimedOf(provider, number);
        }
    }

    function licensesOwe() external view returns (uint256 owed) {
        for (uint32 version = 1; version <= ips.latestVersionOf(_ipId); ++version) {
            for (uint256 i = 0; i < MEMBERS; ++i) {
                owed += unclaimedRoyalty(version, i);
            }
        }
    }

    function poolHolds() external view returns (uint256) {
        return token.balanceOf(address(log));
    }

    function licensesHold() external view returns (uint256) {
        return token.balanceOf(address(licenses));
    }

    function unclaimedRoyalty(uint32 version, uint256 i) private view returns (uint256) {
        Member storage member = _members[version][i];
        if (member.payee == address(0)) return 0;
        uint256 due = mulShift(member.weight, licenses.accumulatorOf(_ipId, version));
        return due - licenses.royaltyClaimedOf(_ipId, version, member.dataId);
    }

    /// @dev floor(a · b / 2^128) for a < 2^128, by halves.
    function mulShift(uint256 a, uint256 b) private pure returns (uint256) {
        return a * (b >> 128) + ((a * (b & type(uint128).max)) >> 128);
    }

    function isPastGrace(uint64 task) private view returns (bool) {
        return block.timestamp > log.taskOf(task).closesAt + log.SETTLEMENT_GRACE();
    }
}

contract SolvencyTest is Fixture {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Handler private _handler;

    function setUp() public override {
        _handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0].addr = address(_handler);
        bytes4[9] memory actions = [
            Handler.createTask.selector,
            Handler.fundTask.selector,
            Handler.refundTask.selector,
            Handler.wait.selector,
            Handler.anchorBatch.selector,
            Handler.claim.selector,
            Handler.newVersion.selector,
            Handler.buy.selector,
            Handler.claimRoyalty.selector
        ];
        targets[0].selectors = new bytes4[](actions.length);
        for (uint256 i = 0; i < actions.length; ++i) {
            targets[0].selectors[i] = actions[i];
        }
    }

    /// Nothing was sent to the pool outside of it, so it holds escrows and unclaimed rewards and not a unit else.
    function invariant_PoolHoldsEscrowsAndUnclaimedRewards() external view {
        assertEq(_handler.poolHolds(), _handler.poolOwes());
    }

    function invariant_BatchesHoldWhatTheirEventsPromise() external view {
        assertEq(_handler.batchesHold(), _handler.eventsPromise());
    }

    function invariant_LicensesHoldUnclaimedRoyalties() external view {
        assertGe(_handler.licensesHold(), _handler.licensesOwe());
    }
}
